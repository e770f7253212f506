// SPDX-License-Identifier: Apache-2.0
//
// IvTracker against a plain set of all IVs, and at the limit of its memory. The set is the oracle:
// it forgets nothing, so its word on 20000 random IVs is the right one.
//
// At the limit the tracker may say that it does not know, and nothing else: a reuse that it forgot
// must not be called good.
#include "iv_tracker.hh"

#include <gtest/gtest.h>
#include <map>
#include <random>

namespace psp::pcap_tool {
namespace {

using Verdict = IvTracker::Verdict;

TEST(IvTracker, AgreesWithASetOfAllIvs) {
  std::mt19937_64 random(1);
  IvTracker tracker;
  IvTracker::Budget budget;
  std::map<std::uint64_t, std::uint64_t> all;
  for (int i = 0; i < 20000; ++i) {
    const std::uint64_t iv = i % 3 == 0 ? random() % 5000 : static_cast<std::uint64_t>(i);
    const std::uint64_t tag = random() % 2;
    const auto found = all.find(iv);
    const auto expected = found != all.end()
                              ? (found->second == tag ? Verdict::kDuplicate : Verdict::kReused)
                          : all.empty() || iv > all.rbegin()->first ? Verdict::kIncreasing
                                                                    : Verdict::kLate;
    ASSERT_EQ(tracker.add(iv, tag, budget), expected) << iv;
    if (found == all.end()) all[iv] = tag;
  }
}

TEST(IvTracker, TakesTheEdgesOfTheRange) {
  IvTracker tracker;
  IvTracker::Budget budget;
  EXPECT_EQ(tracker.add(0, 1, budget), Verdict::kIncreasing);
  EXPECT_EQ(tracker.add(~std::uint64_t{0}, 1, budget), Verdict::kIncreasing);
  EXPECT_EQ(tracker.add(0, 2, budget), Verdict::kReused);
  EXPECT_EQ(tracker.add(~std::uint64_t{0}, 1, budget), Verdict::kDuplicate);
}

TEST(IvTracker, SaysWhatItForgot) {
  IvTracker tracker;
  IvTracker::Budget budget{.left = 100};
  for (std::uint64_t iv = 0; iv < 1000; ++iv)
    ASSERT_EQ(tracker.add(10 * iv, iv, budget), Verdict::kIncreasing);
  EXPECT_LE(budget.left, 100u);
  EXPECT_EQ(tracker.add(5, 1, budget), Verdict::kUnknown);
  EXPECT_EQ(tracker.add(9980, 7, budget), Verdict::kReused);
}

TEST(IvTracker, JudgesNothingWithoutMemory) {
  IvTracker tracker;
  IvTracker::Budget budget{.left = 0};
  EXPECT_EQ(tracker.add(1, 1, budget), Verdict::kIncreasing);
  EXPECT_EQ(tracker.add(1, 2, budget), Verdict::kUnknown);
}

}  // namespace
}  // namespace psp::pcap_tool
