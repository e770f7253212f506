// SPDX-License-Identifier: Apache-2.0
//
// Who shares a list with whom, how often one is made, and how much is kept of those that are read
// slowly. Time is a number, and a walk ends when the test says so: a minute of asking without end
// costs no minute, and its share of the time is exact.
//
// The walk through the kernel's table is not in it: that is tested with pspd (tests/netns).
#include "socket_lists.hh"

#include <gtest/gtest.h>

#include "socket_lists_fakes.hh"

namespace psp::host {
namespace {

using namespace std::chrono_literals;
using State = SocketLists::List::State;

class SocketListsTest : public testing::Test {
 protected:
  // made goes on until the list is made, and takes so long for it.
  void make(const std::shared_ptr<const SocketLists::List>& list, std::chrono::nanoseconds took) {
    while (list->state == State::kWanted) {
      if (walk_.walking) walk_.end({}, took);
      lists_.turn(now_);
      now_ += 5ms;
    }
  }
  FakeWalk walk_;
  int wanted_ = 0;
  SocketLists lists_{walk_, [this] { wanted_++; }};
  SocketLists::TimePoint now_{1000s};
};

TEST_F(SocketListsTest, AListIsBegunAtTheFirstTurnAndMadeWhenTheWalkHasEnded) {
  const auto list = lists_.ask();
  EXPECT_EQ(wanted_, 1);
  EXPECT_TRUE(lists_.turn(now_));
  EXPECT_TRUE(walk_.walking);
  EXPECT_TRUE(lists_.turn(now_));
  EXPECT_EQ(list->state, State::kWanted);
  walk_.end({7, 3}, 1ms);
  EXPECT_FALSE(lists_.turn(now_));
  EXPECT_EQ(list->state, State::kMade);
  EXPECT_EQ(list->found.sockets.size(), 2u);
  EXPECT_EQ(list->found.cookies, (std::vector<std::uint64_t>{3, 7}));
}

TEST_F(SocketListsTest, AllWhoAskBeforeItIsBegunShareOne) {
  std::vector<std::shared_ptr<const SocketLists::List>> all;
  for (int i = 0; i < 100; i++) all.push_back(lists_.ask());
  make(all.front(), 10ms);
  for (const auto& list : all) EXPECT_EQ(list->state, State::kMade);
  EXPECT_EQ(walk_.begun, 1);
  EXPECT_EQ(wanted_, 1);
}

TEST_F(SocketListsTest, WhoAsksDuringAWalkGetsTheNextOne) {
  const auto first = lists_.ask();
  lists_.turn(now_);
  const auto second = lists_.ask(), third = lists_.ask();
  EXPECT_NE(first, second);
  EXPECT_EQ(second, third);
  walk_.end({1}, 1ms);
  EXPECT_TRUE(lists_.turn(now_));
  EXPECT_EQ(first->state, State::kMade);
  EXPECT_EQ(second->state, State::kWanted);
  walk_.end({2}, 1ms);
  lists_.turn(now_);
  EXPECT_EQ(second->found.cookies, std::vector<std::uint64_t>{2});
}

TEST_F(SocketListsTest, AskingWithoutEndCostsASixteenthOfTheTimeAtMost) {
  constexpr auto kTook = 20ms;
  const auto start = now_;
  while (now_ < start + 60s) make(lists_.ask(), kTook);
  EXPECT_LE(walk_.begun * kTook, (60s + SocketLists::kCredit) / SocketLists::kOthers + 2 * kTook);
  EXPECT_GE(walk_.begun * kTook, 60s / (SocketLists::kOthers + 2));
}

TEST_F(SocketListsTest, AListThatIsAskedForSeldomIsBegunAtOnce) {
  for (int i = 0; i < 10; i++) {
    const auto list = lists_.ask();
    lists_.turn(now_);
    EXPECT_TRUE(walk_.walking) << i;
    walk_.end({}, 20ms);
    lists_.turn(now_);
    now_ += 1s;
  }
}

TEST_F(SocketListsTest, NoneIsMadeForWhoHasGone) {
  (void)lists_.ask();
  EXPECT_FALSE(lists_.turn(now_));
  EXPECT_EQ(walk_.begun, 0);
}

TEST_F(SocketListsTest, WhoGoesDuringAWalkCostsOthersNothing) {
  (void)lists_.ask();
  const auto kept = lists_.ask();
  lists_.turn(now_);
  lists_.ask();
  walk_.end({1}, 1ms);
  EXPECT_FALSE(lists_.turn(now_));
  EXPECT_EQ(kept->state, State::kMade);
  EXPECT_EQ(walk_.begun, 1);
}

TEST_F(SocketListsTest, AWalkThatFailsIsToldAndTheNextIsMade) {
  const auto list = lists_.ask();
  lists_.turn(now_);
  walk_.fail();
  EXPECT_FALSE(lists_.turn(now_));
  EXPECT_EQ(list->state, State::kFailed);
  const auto next = lists_.ask();
  make(next, 1ms);
  EXPECT_EQ(next->state, State::kMade);
}

TEST_F(SocketListsTest, OldListsAreDroppedIfThoseThatAreReadHoldTooMuch) {
  std::vector<std::shared_ptr<const SocketLists::List>> read;
  const std::vector<std::uint64_t> half(SocketLists::kSocketsMax / 2, 1);
  for (int i = 0; i < 3; i++) {
    read.push_back(lists_.ask());
    lists_.turn(now_);
    walk_.end(half, 1ms);
    lists_.turn(now_);
  }
  EXPECT_EQ(read[0]->state, State::kDropped);
  EXPECT_TRUE(read[0]->found.sockets.empty());
  EXPECT_EQ(read[1]->state, State::kMade);
  EXPECT_EQ(read[2]->state, State::kMade);
}

TEST_F(SocketListsTest, ALongListIsThereAsLongAsItIsTheOnlyOne) {
  const auto list = lists_.ask();
  lists_.turn(now_);
  walk_.end(std::vector<std::uint64_t>(SocketLists::kSocketsMax + 1, 1), 1ms);
  lists_.turn(now_);
  EXPECT_EQ(list->state, State::kMade);
}

}  // namespace
}  // namespace psp::host
