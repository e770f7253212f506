// SPDX-License-Identifier: Apache-2.0
//
// Runs: the same seed is the same run, and one without enemies and faults has nothing to complain
// of, while its connections are secured and deliver.
//
// Each kind of fault alone keeps the promises, over a few seeds; all of them together, over many,
// are psp-sim's (make simulate). The oracle is the Observer, and whether it would notice anything
// is shown in mutants_test.cc. How often something happened is looked at too: a run in which
// nothing was sealed proves nothing.
#include "world.hh"

#include <gtest/gtest.h>

namespace psp::sim {
namespace {

std::array<bool, kFeatures> nothing() {
  std::array<bool, kFeatures> without{};
  without.fill(true);
  return without;
}

TEST(WorldTest, TheSameSeedIsTheSameRun) {
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    Coverage one, two;
    const Outcome first = World(make_plan(seed, 8000, {}), one).run();
    const Outcome second = World(make_plan(seed, 8000, {}), two).run();
    EXPECT_EQ(first.hash, second.hash);
    EXPECT_EQ(first.step, second.step);
    EXPECT_EQ(one.cells(), two.cells());
  }
}

TEST(WorldTest, AnotherSeedIsAnotherRun) {
  Coverage coverage;
  EXPECT_NE(World(make_plan(1, 8000, nothing()), coverage).run().hash,
            World(make_plan(2, 8000, nothing()), coverage).run().hash);
}

TEST(WorldTest, InPeaceConnectionsAreSecuredAndDeliver) {
  Coverage coverage;
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    const Outcome outcome = World(make_plan(seed, 20000, nothing()), coverage).run();
    EXPECT_FALSE(outcome.breach) << *outcome.breach;
    EXPECT_GT(outcome.sealed, 100u);
  }
  const auto passed = [&](psp_state state) {
    return coverage.of({.state = state, .event = PSP_RX_PSP_MATCH, .passed = true}, kFaultsCounted);
  };
  EXPECT_GT(passed(PSP_STATE_FULL), 1000u);
  EXPECT_GT(coverage.of("at the calm", "can live"), 5u);
  EXPECT_EQ(passed(PSP_STATE_NONE), 0u);
}

TEST(WorldTest, EachFaultComes) {
  std::array<bool, kFeatures> without{};
  Coverage coverage;
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    Plan plan = make_plan(seed, 60000, without);
    plan.on.fill(true);
    (void)World(plan, coverage).run();
  }
  for (const Feature fault : kCountedFaults)
    EXPECT_GT(coverage.of("faults", std::string(name_of(fault))), 0u) << name_of(fault);
}

TEST(WorldTest, EachFaultAloneKeepsThePromises) {
  for (std::size_t i = 0; i < kFeatures; ++i) {
    auto without = nothing();
    without[i] = false;
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
      Coverage coverage;
      Plan plan = make_plan(seed, 10000, without);
      plan.on[i] = true;
      const Outcome outcome = World(plan, coverage).run();
      EXPECT_FALSE(outcome.breach)
          << name_of(static_cast<Feature>(i)) << ", seed " << seed << ": " << *outcome.breach;
    }
  }
}

TEST(WorldTest, ContainersAreSecuredAndDeliver) {
  auto without = nothing();
  without[static_cast<std::size_t>(Feature::k_containers)] = false;
  Coverage coverage;
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    Plan plan = make_plan(seed, 20000, without);
    plan.on[static_cast<std::size_t>(Feature::k_containers)] = true;
    const Outcome outcome = World(plan, coverage).run();
    EXPECT_FALSE(outcome.breach) << *outcome.breach;
  }
  EXPECT_GT(coverage.of("containers", "dev-assoc"), 10u);
  EXPECT_GT(coverage.of("containers", "opened"), 1000u);
  EXPECT_GT(coverage.of("at the calm", "can live"), 5u);
}

TEST(WorldTest, WhatBefallsContainersKeepsThePromises) {
  for (const Feature feature : {Feature::k_disassoc, Feature::k_netns_gone, Feature::k_netdev,
                                Feature::k_crash, Feature::k_stop, Feature::k_container_root}) {
    Coverage coverage;
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
      Plan plan = make_plan(seed, 10000, nothing());
      plan.on[static_cast<std::size_t>(Feature::k_containers)] = true;
      plan.on[static_cast<std::size_t>(feature)] = true;
      const Outcome outcome = World(plan, coverage).run();
      EXPECT_FALSE(outcome.breach)
          << name_of(feature) << ", seed " << seed << ": " << *outcome.breach;
    }
    EXPECT_GT(coverage.of("containers", "opened"), 100u) << name_of(feature);
  }
}

}  // namespace
}  // namespace psp::sim
