// SPDX-License-Identifier: Apache-2.0
//
// The key exchange over the model: in peace all that begin it are secured; with an enemy who puts
// octets in, and with daemons that come and go, it works or fails, and is never wrong.
//
// What wrong is, Workload::check_secured and the Observer say. Real octets in the model of TCP,
// which an exchange is the first to write, are shown by themselves.
#include <gtest/gtest.h>

#include "content.hh"
#include "world.hh"

namespace psp::sim {
namespace {

Plan plan_of(std::uint64_t seed, std::initializer_list<Feature> features) {
  std::array<bool, kFeatures> without{};
  Plan plan = make_plan(seed, 10000, without);
  plan.on.fill(false);
  for (const Feature feature : features) plan.on[static_cast<std::size_t>(feature)] = true;
  return plan;
}

std::uint64_t failed(const Coverage& coverage) {
  const auto row = coverage.cells().find("keyx");
  std::uint64_t all = 0;
  if (row == coverage.cells().end()) return all;
  for (const auto& [column, times] : row->second)
    if (column.starts_with("failed")) all += times;
  return all;
}

TEST(KeyxTest, InPeaceNothingBreaksIt) {
  Coverage coverage;
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    const Outcome outcome = World(plan_of(seed, {Feature::k_keyx}), coverage).run();
    EXPECT_FALSE(outcome.breach) << *outcome.breach;
  }
  EXPECT_GT(coverage.of("keyx", "done"), 20u);
  EXPECT_GT(coverage.of("keyx", "on TLS"), 0u);
  // One that rests for long can run out of time, and its peer of a connection.
  for (const char* why :
       {"failed, io", "failed, protocol", "failed, authentication", "failed, clear data"})
    EXPECT_EQ(coverage.of("keyx", why), 0u) << why;
}

TEST(KeyxTest, WithOctetsPutInItFailsOrWorksAndIsNeverWrong) {
  Coverage coverage;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const Outcome outcome =
        World(plan_of(seed, {Feature::k_keyx, Feature::k_inject, Feature::k_replay}), coverage)
            .run();
    EXPECT_FALSE(outcome.breach) << "seed " << seed << ": " << *outcome.breach;
  }
  EXPECT_GT(coverage.of("keyx", "done"), 20u);
  EXPECT_GT(coverage.of("keyx", "failed, protocol"), 0u);
}

TEST(KeyxTest, WhenDaemonsComeAndGoItEnds) {
  Coverage coverage;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const Outcome outcome =
        World(plan_of(seed, {Feature::k_keyx, Feature::k_crash, Feature::k_stop, Feature::k_rotate,
                             Feature::k_versions, Feature::k_freeze}),
              coverage)
            .run();
    EXPECT_FALSE(outcome.breach) << "seed " << seed << ": " << *outcome.breach;
  }
  EXPECT_GT(coverage.of("keyx", "done"), 20u);
  EXPECT_GT(failed(coverage), 10u);
}

TEST(KeyxTest, TheSameSeedIsTheSameExchange) {
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    Coverage one, two;
    const Plan plan = plan_of(seed, {Feature::k_keyx, Feature::k_loss, Feature::k_crash});
    EXPECT_EQ(World(plan, one).run().hash, World(plan, two).run().hash);
    EXPECT_EQ(one.cells(), two.cells());
  }
}

TEST(KeyxTest, RealOctetsStandInTheirPlaceAndContentElsewhere) {
  Written real;
  const std::vector<std::uint8_t> octets = {1, 2, 3};
  real.add(20, octets);
  std::vector<std::uint8_t> out(30);
  write_stream(7, &real, 10, out);
  for (std::uint32_t i = 0; i < out.size(); ++i)
    EXPECT_EQ(out[i], i >= 10 && i < 13 ? octets[i - 10] : content_octet(7, 10 + i)) << i;
  EXPECT_TRUE(is_written(7, &real, 10, out));
  EXPECT_FALSE(is_written(7, nullptr, 10, out));
  EXPECT_TRUE(is_written(7, &real, 21, std::vector<std::uint8_t>{2, 3, content_octet(7, 23)}));
}

}  // namespace
}  // namespace psp::sim
