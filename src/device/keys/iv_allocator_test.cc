// SPDX-License-Identifier: Apache-2.0
//
// IVs: unique, growing, following the clock, whatever the clock does and however many threads ask.
// The clock is given, and stands, goes back and passes 2^64. Of many threads all ranges are kept,
// sorted, and must not overlap. That no (key, IV) repeats over a restart is not shown here: keys
// are new then.
//
// Threading: the tests start threads of their own; run under ThreadSanitizer too.
#include "device/keys/iv_allocator.hh"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <gtest/gtest.h>
#include <limits>
#include <thread>
#include <vector>

namespace psp::device {
namespace {

TEST(IvAllocator, FollowsTheClock) {
  std::uint64_t now = 1'000;
  IvAllocator ivs([&now] { return now; });
  EXPECT_EQ(ivs.reserve(10), 1'000u);
  now = 5'000;
  EXPECT_EQ(ivs.reserve(1), 5'000u);
}

TEST(IvAllocator, DoesNotOverlapWhenTheClockStandsOrGoesBack) {
  std::uint64_t now = 1'000;
  IvAllocator ivs([&now] { return now; });
  EXPECT_EQ(ivs.reserve(10), 1'000u);
  EXPECT_EQ(ivs.reserve(10), 1'010u);
  now = 1'015;  // inside the range reserved last
  EXPECT_EQ(ivs.reserve(1), 1'020u);
  now = 3;
  EXPECT_EQ(ivs.reserve(1), 1'021u);
  EXPECT_EQ(ivs.reserve(1), 1'022u);
}

TEST(IvAllocator, StartsAtTheClockEvenInTheUpperHalf) {
  IvAllocator ivs([] { return std::uint64_t{0xf000'0000'0000'0000}; });
  EXPECT_EQ(ivs.reserve(1), 0xf000'0000'0000'0000u);
}

TEST(IvAllocator, CrossesTheWrapOfTheClockWithoutRepeating) {
  constexpr std::uint64_t kEnd = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t now = kEnd - 4;  // 5 IVs before the wrap
  IvAllocator ivs([&now] { return now; });
  EXPECT_EQ(ivs.reserve(64), kEnd - 4);  // ends at 59, modulo 2^64
  now = kEnd - 2;
  EXPECT_EQ(ivs.reserve(1), 59u);
  now = 10;
  EXPECT_EQ(ivs.reserve(1), 60u);
  now = 100;
  EXPECT_EQ(ivs.reserve(1), 100u);
}

TEST(IvAllocator, NeverGivesOneIvToTwoThreads) {
  constexpr unsigned kThreads = 4;
  constexpr unsigned kRanges = 20'000;
  std::atomic<std::uint64_t> clock{1};
  // A clock that hardly moves: the counter has to do the work.
  IvAllocator ivs([&clock] { return clock.fetch_add(1, std::memory_order_relaxed) / 64; });
  struct Range {
    std::uint64_t first, size;
  };
  std::vector<std::vector<Range>> got(kThreads);
  std::vector<std::jthread> threads;
  for (unsigned t = 0; t < kThreads; ++t)
    threads.emplace_back([&ivs, &mine = got[t], t] {
      for (unsigned i = 0; i < kRanges; ++i) {
        const std::uint32_t size = 1 + (i * 7 + t) % 64;
        mine.push_back({ivs.reserve(size), size});
      }
    });
  threads.clear();  // joins

  std::vector<Range> all;
  for (const auto& mine : got) {
    for (std::size_t i = 1; i < mine.size(); ++i)
      ASSERT_GE(mine[i].first, mine[i - 1].first + mine[i - 1].size) << "goes back in one thread";
    all.insert(all.end(), mine.begin(), mine.end());
  }
  std::ranges::sort(all, {}, &Range::first);
  for (std::size_t i = 1; i < all.size(); ++i)
    ASSERT_GE(all[i].first, all[i - 1].first + all[i - 1].size) << "ranges overlap";
}

}  // namespace
}  // namespace psp::device
