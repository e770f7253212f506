// SPDX-License-Identifier: Apache-2.0
//
// Who has how much of the time. A desk serves connections by their stamps, as the event loop does,
// and time is what turns are said to cost: so nothing here waits for a clock.
//
// Shown are shares over thousands of turns, how long somebody waits who asks seldom or comes new,
// and that quiet connections save nothing up. Turns of the real loop, with real clients, are in
// hostile_client_test.cc.
#include "fair_share.hh"

#include <deque>
#include <functional>
#include <gtest/gtest.h>
#include <set>
#include <vector>

namespace psp::control {
namespace {

using namespace std::chrono_literals;

// Desk serves connections by their stamps, as the event loop does. Time is what turns take.
class Desk {
 public:
  struct ClientState {
    FairShare::Turn turn;
    std::chrono::nanoseconds cost;
    std::size_t turns = 0;
    bool wants = true;
  };

  std::size_t open(uid_t uid, pid_t pid, std::chrono::nanoseconds cost, bool wants = true) {
    connections_.push_back({share_.enter(uid, pid), cost, 0, wants});
    return connections_.size() - 1;
  }
  ClientState& operator[](std::size_t i) { return connections_[i]; }

  // turn serves the next connection that wants to be served and returns its number.
  std::size_t turn() {
    std::size_t best = lowest();
    for (; !share_.is_next(connections_[best].turn); best = lowest()) looks_++;
    ClientState& chosen = connections_[best];
    share_.begin(chosen.turn);
    share_.charge(chosen.turn, chosen.cost);
    chosen.turns++;
    return best;
  }
  void turns(int count) {
    for (int i = 0; i < count; i++) turn();
  }
  // close ends a connection whose turn is not queued.
  void close(std::size_t i) {
    share_.leave(*connections_[i].turn.flow);
    connections_[i].wants = false;
  }
  // looks is how often a connection was asked and had to let another of its process go first.
  std::size_t looks() const { return looks_; }
  void withdraw(std::size_t i) {
    share_.withdraw(connections_[i].turn);
    connections_[i].wants = false;
  }

 private:
  std::size_t lowest() const {
    std::size_t best = connections_.size();
    for (std::size_t i = 0; i < connections_.size(); i++)
      if (connections_[i].wants && (best == connections_.size() ||
                                    connections_[i].turn.stamp < connections_[best].turn.stamp))
        best = i;
    return best;
  }

  FairShare share_;
  std::deque<ClientState> connections_;
  std::size_t looks_ = 0;
};

TEST(FairShare, GivesAUserWithOneConnectionAsMuchAsOneWithHundreds) {
  Desk desk;
  for (int i = 0; i < 500; i++) desk.open(1000, 1, 500us);
  const std::size_t one = desk.open(1001, 2, 50us);
  desk.turns(11000);
  EXPECT_NEAR(static_cast<double>(desk[one].turns), 10000, 50) << "ten for each of 500 us";
}

TEST(FairShare, LetsAClientThatAsksSeldomWaitForOneTurn) {
  Desk desk;
  for (int i = 0; i < 500; i++) desk.open(1000, 1, 500us);
  const std::size_t seldom = desk.open(1001, 2, 50us, false);
  for (int round = 0; round < 20; round++) {
    desk.turns(1000);
    desk[seldom].wants = true;
    EXPECT_EQ(desk.turn(), seldom) << "round " << round;
    desk[seldom].wants = false;
  }
}

TEST(FairShare, LetsANewcomerGoBeforeAThousandConnectionsThatCameAtOnce) {
  Desk desk;
  for (int i = 0; i < 1000; i++) desk.open(1000, 1, 500us);
  desk.turns(1);
  const std::size_t newcomer = desk.open(1001, 2, 50us);
  for (int round = 0; round < 10; round++) {
    const std::size_t before = desk[newcomer].turns;
    desk.turns(3);
    EXPECT_GT(desk[newcomer].turns, before) << "round " << round;
  }
}

// Where pspd has to wait for a processor a turn can take long, through nobody's fault.
TEST(FairShare, LetsAClientWhoseTurnTookLongWaitForAsMuchOfAnothers) {
  Desk desk;
  for (int i = 0; i < 500; i++) desk.open(1000, 1, 16ms);
  const std::size_t one = desk.open(1001, 2, 16ms);
  while (desk[one].turns == 0) desk.turn();
  desk.turns(3);
  EXPECT_GE(desk[one].turns, 2U);
}

TEST(FairShare, GivesNobodyManyTurnsAtOnceForConnectionsThatWereQuiet) {
  Desk desk;
  std::vector<std::size_t> quiet;
  for (int i = 0; i < 500; i++) quiet.push_back(desk.open(1000, 1, 1ms));
  desk.turns(500);
  for (const std::size_t i : quiet) desk[i].wants = false;
  const std::size_t other = desk.open(1001, 2, 1ms);
  desk.turns(10000);
  for (const std::size_t i : quiet) desk[i].wants = true;
  const std::size_t before = desk[other].turns;
  desk.turns(100);
  EXPECT_NEAR(static_cast<double>(desk[other].turns - before), 50, 1);
}

TEST(FairShare, ServesTheConnectionsOfAProcessInTurn) {
  Desk desk;
  for (int i = 0; i < 100; i++) desk.open(1000, 1, i % 2 == 0 ? 1ms : 10us);
  desk.open(1001, 2, 100us);
  desk.turns(100'000);
  for (std::size_t i = 1; i < 100; i++)
    EXPECT_NEAR(static_cast<double>(desk[i].turns), static_cast<double>(desk[0].turns), 2) << i;
  EXPECT_LE(desk.looks(), 2U * 100'000) << "one that is asked too early is queued, and called";
}

TEST(FairShare, LetsNobodyWaitForAConnectionThatWantsNoTurnAnyMore) {
  Desk desk;
  for (int i = 0; i < 10; i++) desk.open(1000, 1, 1ms);
  const std::size_t other = desk.open(1001, 2, 1ms);
  desk.turns(20);  // by now they are queued
  for (std::size_t i = 0; i < 9; i++) desk.withdraw(i);
  const std::size_t before = desk[9].turns;
  desk.turns(100);
  EXPECT_NEAR(static_cast<double>(desk[9].turns - before), 50, 1);
  EXPECT_GT(desk[other].turns, 50U);
}

TEST(FairShare, ServesEveryConnectionOfAUser) {
  Desk desk;
  for (int i = 0; i < 100; i++) desk.open(1000, 1, 0ns);
  std::set<std::size_t> served;
  for (int i = 0; i < 100; i++) served.insert(desk.turn());
  EXPECT_EQ(served.size(), 100U);
}

TEST(FairShare, DividesAUsersShareAmongItsProcesses) {
  Desk desk;
  for (pid_t pid = 1; pid <= 50; pid++) desk.open(1000, pid, 100us);
  const std::size_t other_user = desk.open(1001, 99, 100us);
  desk.turns(10000);
  EXPECT_NEAR(static_cast<double>(desk[other_user].turns), 5000, 100);
}

TEST(FairShare, GivesTwoProcessesOfAUserTheSame) {
  Desk desk;
  for (int i = 0; i < 100; i++) desk.open(1000, 1, 100us);
  const std::size_t alone = desk.open(1000, 2, 100us);
  desk.turns(10000);
  EXPECT_NEAR(static_cast<double>(desk[alone].turns), 5000, 110);
}

TEST(FairShare, GivesNobodyAClaimToTheTimeBeforeItCame) {
  Desk desk;
  const std::size_t early = desk.open(1000, 1, 100us);
  desk.turns(10000);
  const std::size_t late = desk.open(1001, 2, 100us);
  desk.turns(1000);
  EXPECT_NEAR(static_cast<double>(desk[late].turns), 500, 2);
  EXPECT_NEAR(static_cast<double>(desk[early].turns), 10500, 2);
}

// turns_of_one_beside gives turns to a client of 50 us each, and to one of 500 us each who closes
// after each and comes again, as the process that `pid` says. Returns those of the first.
std::size_t turns_of_one_beside(const std::function<pid_t(int)>& pid, uid_t uid = 1001) {
  Desk desk;
  const std::size_t one = desk.open(uid, 2, 50us);
  int coming = 0;
  std::size_t again = desk.open(1000, pid(coming), 500us);
  for (int i = 0; i < 5500; i++) {
    if (desk.turn() != again) continue;
    desk.close(again);
    again = desk.open(1000, pid(++coming), 500us);
  }
  return desk[one].turns;
}

TEST(FairShare, GivesAProcessThatConnectsAnewForEachTurnNoMoreThanOneThatStays) {
  EXPECT_NEAR(static_cast<double>(turns_of_one_beside([](int) { return 1; })), 5000, 100);
}

TEST(FairShare, GivesAProcessThatConnectsAnewNoMoreThanAnotherOfItsUser) {
  EXPECT_NEAR(static_cast<double>(turns_of_one_beside([](int) { return 1; }, 1000)), 5000, 300);
}

TEST(FairShare, GivesAUserWithANewProcessForEachTurnNoMoreThanOneThatStays) {
  EXPECT_NEAR(static_cast<double>(turns_of_one_beside([](int i) { return 10 + i; })), 5000, 100);
}

TEST(FairShare, LetsANewcomerGoBeforeAThousandProcessesThatCameAtOnce) {
  Desk desk;
  for (pid_t pid = 1; pid <= 1000; pid++) desk.open(1000, pid, 500us);
  desk.turns(1);
  const std::size_t newcomer = desk.open(1001, 2000, 50us);
  for (int round = 0; round < 10; round++) {
    const std::size_t before = desk[newcomer].turns;
    desk.turns(3);
    EXPECT_GT(desk[newcomer].turns, before) << "round " << round;
  }
}

TEST(FairShare, HoldsNobodyToWhatOthersHaveHadSince) {
  Desk desk;
  const std::size_t heavy = desk.open(1000, 1, 10ms);
  const std::size_t other = desk.open(1001, 2, 1ms);
  while (desk[heavy].turns == 0) desk.turn();
  desk.close(heavy);
  desk.turns(20);
  const std::size_t again = desk.open(1000, 1, 1ms), before = desk[other].turns;
  desk.turns(10);
  EXPECT_NEAR(static_cast<double>(desk[other].turns - before), 5, 1);
  EXPECT_NEAR(static_cast<double>(desk[again].turns), 5, 1);
}

// enter_once is a turn of a user with one connection.
FairShare::Stamp enter_once(FairShare& share, uid_t uid) {
  FairShare::Turn turn = share.enter(uid, 1);
  const FairShare::Stamp stamp = turn.stamp;
  share.charge(turn, 5ms);
  share.leave(*turn.flow);
  return stamp;
}

TEST(FairShare, RemembersABoundedNumberOfUsersThatHaveGone) {
  FairShare share;
  const FairShare::Stamp first = enter_once(share, 0);
  EXPECT_GT(enter_once(share, 0), first);
  for (uid_t uid = 1; uid < FairShare::kQuietMax; uid++) enter_once(share, uid);
  EXPECT_GT(enter_once(share, 0), first) << "so many have room";
  for (uid_t uid = 1; uid <= FairShare::kQuietMax; uid++) enter_once(share, 10'000 + uid);
  EXPECT_EQ(enter_once(share, 0), first) << "and no more";
}

TEST(FairShare, KeepsAFlowUntilItsLastConnectionIsGone) {
  FairShare share;
  FairShare::Turn first = share.enter(1000, 1);
  EXPECT_EQ(share.enter(1000, 1).flow, first.flow);
  share.leave(*first.flow);
  share.charge(first, 5ms);
  EXPECT_EQ(share.enter(1000, 1).stamp, first.stamp) << "it has not begun anew";
}
}  // namespace
}  // namespace psp::control
