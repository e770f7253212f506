// SPDX-License-Identifier: Apache-2.0
//
// A ManualLoop keeps what an EventLoop promises (event_loop_test.cc), with the test's time: nothing
// is called before its time, all that is due is, in order, and what is off or dropped is not. It is
// what other tests rest on, so it is tested itself.
#include "base/manual_loop.hh"

#include <cerrno>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <vector>

#include "base/unique_fd.hh"

namespace psp {
namespace {

using namespace std::chrono_literals;

UniqueFd event(unsigned value) { return UniqueFd(::eventfd(value, EFD_CLOEXEC | EFD_NONBLOCK)); }
void take(const UniqueFd& fd) {
  eventfd_t value;
  ::eventfd_read(fd.get(), &value);
}

TEST(ManualLoop, CallsWhatComesDueInOrderOfTime) {
  ManualLoop loop;
  const auto start = loop.now();
  std::vector<std::pair<char, std::chrono::nanoseconds>> called;
  const auto a = loop.every(20ms, [&] { called.emplace_back('a', loop.now() - start); });
  const auto b = loop.every(30ms, [&] { called.emplace_back('b', loop.now() - start); });
  loop.advance(19ms);
  EXPECT_TRUE(called.empty());
  loop.advance(31ms);
  const std::vector<std::pair<char, std::chrono::nanoseconds>> expected{
      {'a', 20ms}, {'b', 30ms}, {'a', 40ms}};
  EXPECT_EQ(called, expected);
  EXPECT_EQ(loop.now() - start, 50ms);
}

TEST(ManualLoop, CallsTheLowestOrderOfWhatIsReadable) {
  ManualLoop loop;
  const UniqueFd one = event(1), other = event(1);
  std::vector<int> called;
  auto first = loop.on_readable(one.get(), [&] { take(one), called.push_back(1); });
  auto second = loop.on_readable(other.get(), [&] { take(other), called.push_back(2); });
  first.set_order(20);
  second.set_order(10);
  EXPECT_EQ(loop.settle(), 2u);
  EXPECT_EQ(called, (std::vector{2, 1}));
}

TEST(ManualLoop, WhatIsOffRestsAndATimerBeginsAnewWhenItIsOn) {
  ManualLoop loop;
  int calls = 0;
  auto timer = loop.every(10ms, [&] { calls++; });
  loop.advance(9ms);
  timer.enable(false);
  loop.advance(1s);
  EXPECT_EQ(calls, 0);
  EXPECT_EQ(loop.timers(), 0u);
  timer.enable(true);
  loop.advance(9ms);
  EXPECT_EQ(calls, 0);
  loop.advance(1ms);
  EXPECT_EQ(calls, 1);
}

TEST(ManualLoop, ACallMayDropItsOwnSource) {
  ManualLoop loop;
  const UniqueFd fd = event(1);
  Loop::Source source;
  source = loop.on_readable(fd.get(), [&, word = std::string(100, 'x')] {
    source = {};
    EXPECT_EQ(word.size(), 100u);
  });
  EXPECT_EQ(loop.settle(), 1u);
  EXPECT_EQ(loop.settle(), 0u);
}

TEST(ManualLoop, RefusesAsTheKernelDoes) {
  ManualLoop loop;
  auto kept = loop.try_every(1ms, [] {});
  ASSERT_TRUE(kept);
  loop.refuse(ENOMEM);
  EXPECT_EQ(loop.try_every(1ms, [] {}).error(), ENOMEM);
  EXPECT_TRUE(kept->enable(true)) << "a timer is never refused again";
  EXPECT_TRUE(loop.complete());
  const auto needed = loop.every(1ms, [] {});
  EXPECT_FALSE(loop.complete());
}

}  // namespace
}  // namespace psp
