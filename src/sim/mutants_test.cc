// SPDX-License-Identifier: Apache-2.0
//
// That the simulator can fail: it finds each of the faults in mutants/list.txt. This program has
// the product with all of them in it; psp_mutant says which one is on.
//
// A mutant is found when a run with it breaks a promise, whichever, within 10^7 packets; seeds are
// taken from 1 on. Without one, 20 runs of the same program find nothing. What no promise is about,
// and what the model leaves out, no mutant can show (docs/simulation.md).
#include <cstdint>
#include <cstdio>
#include <gtest/gtest.h>

#include "sim/world.hh"

extern "C" {
extern int psp_mutant;
int psp_mutant = 0;
}

namespace psp::sim {
namespace {

struct Mutant {
  const char *name, *text;
};
constexpr Mutant kMutants[] = {
#include "mutants.inc"
};

constexpr std::uint64_t kSteps = 20000, kMostPackets = 10'000'000;

class Mutants : public testing::TestWithParam<int> {};

TEST_P(Mutants, AreFound) {
  const Mutant& mutant = kMutants[GetParam()];
  psp_mutant = GetParam() + 1;
  std::uint64_t packets = 0;
  Outcome outcome;
  std::uint64_t seed = 0;
  while (!outcome.breach && packets < kMostPackets) {
    Coverage coverage;
    outcome = World(make_plan(++seed, kSteps, {}), coverage).run();
    packets += outcome.packets;
  }
  psp_mutant = 0;
  ASSERT_TRUE(outcome.breach) << mutant.name << ": " << mutant.text << ": not found in " << packets
                              << " packets";
  std::printf("%s: found in packet %lu, seed %lu: %s\n", mutant.name,
              static_cast<unsigned long>(packets), static_cast<unsigned long>(seed),
              outcome.breach->c_str());
}

INSTANTIATE_TEST_SUITE_P(All, Mutants, testing::Range(0, static_cast<int>(std::size(kMutants))),
                         [](const auto& test) { return std::string(kMutants[test.param].name); });

// Without one of them nothing is found: it is them that are.
TEST(Mutants, AreWhatIsFound) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Coverage coverage;
    const Outcome outcome = World(make_plan(seed, kSteps, {}), coverage).run();
    EXPECT_FALSE(outcome.breach) << *outcome.breach;
  }
}

}  // namespace
}  // namespace psp::sim
