// SPDX-License-Identifier: Apache-2.0
//
// A plan is made of its seed: over a hundred seeds each kind is on in some and off in others, and
// what is left out changes nothing about the rest. shrink() relies on the latter.
//
// What a kind then does in a run is shown in world_test.cc, and how often in psp-sim --coverage.
#include "plan.hh"

#include <gtest/gtest.h>

namespace psp::sim {
namespace {

TEST(PlanTest, ASeedTurnsSomeOnAndSomeOffAndEachComesUp) {
  std::array<unsigned, kFeatures> times{};
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    const Plan plan = make_plan(seed, 1, {});
    for (std::size_t i = 0; i < kFeatures; ++i) times[i] += plan.on[i];
  }
  for (std::size_t i = 0; i < kFeatures; ++i) {
    EXPECT_GT(times[i], 20u);
    EXPECT_LT(times[i], 80u);
  }
}

TEST(PlanTest, WhatIsTakenOutLeavesTheRestAsItIs) {
  const Plan all = make_plan(3, 1, {});
  std::array<bool, kFeatures> without{};
  without[0] = true;
  const Plan less = make_plan(3, 1, without);
  EXPECT_FALSE(less.on[0]);
  for (std::size_t i = 1; i < kFeatures; ++i) EXPECT_EQ(less.on[i], all.on[i]);
}

TEST(PlanTest, NamesAreFoundAgain) {
  for (std::size_t i = 0; i < kFeatures; ++i) {
    const auto feature = static_cast<Feature>(i);
    EXPECT_EQ(feature_of(name_of(feature)), feature);
  }
  EXPECT_FALSE(feature_of("nonsense"));
}

}  // namespace
}  // namespace psp::sim
