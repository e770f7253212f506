// SPDX-License-Identifier: Apache-2.0
#include "fair_share.hh"

#include <array>
#include <gtest/gtest.h>
#include <set>
#include <unistd.h>
#include <vector>

#include "event_loop.hh"

namespace psp {
namespace {

using namespace std::chrono_literals;

// Desk serves connections by their stamps, as the event loop does. Time is what turns take.
class Desk {
 public:
  struct Connection {
    FairShare::Flow* flow;
    FairShare::Stamp stamp;
    std::chrono::nanoseconds cost;
    std::size_t turns = 0;
    bool wants = true;
  };

  std::size_t open(uid_t uid, pid_t pid, std::chrono::nanoseconds cost, bool wants = true) {
    const auto [flow, stamp] = share_.enter(uid, pid);
    connections_.push_back({flow, stamp, cost, 0, wants});
    return connections_.size() - 1;
  }
  Connection& operator[](std::size_t i) { return connections_[i]; }

  // turn serves the next connection that wants to be served and returns its number.
  std::size_t turn() {
    std::size_t best = connections_.size();
    for (std::size_t i = 0; i < connections_.size(); i++)
      if (connections_[i].wants &&
          (best == connections_.size() || connections_[i].stamp < connections_[best].stamp))
        best = i;
    Connection& chosen = connections_[best];
    share_.begin(chosen.stamp);
    chosen.stamp = share_.charge(*chosen.flow, chosen.cost);
    chosen.turns++;
    return best;
  }
  void turns(int count) {
    for (int i = 0; i < count; i++) turn();
  }

 private:
  FairShare share_;
  std::vector<Connection> connections_;
};

TEST(FairShare, GivesAUserWithOneConnectionAsMuchAsOneWithHundreds) {
  Desk desk;
  for (int i = 0; i < 500; i++) desk.open(1000, 1, 500us);
  const std::size_t one = desk.open(1001, 2, 50us);
  desk.turns(10000);  // the first turn of each of them costs more than it was charged
  const std::size_t before = desk[one].turns;
  desk.turns(11000);
  EXPECT_NEAR(static_cast<double>(desk[one].turns - before), 10000, 50) << "ten for each of 500 us";
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

TEST(FairShare, KeepsAFlowUntilItsLastConnectionIsGone) {
  FairShare share;
  FairShare::Flow& flow = *share.enter(1000, 1).flow;
  EXPECT_EQ(share.enter(1000, 1).flow, &flow);
  share.leave(flow);
  const FairShare::Stamp stamp = share.charge(flow, 5ms);
  EXPECT_EQ(share.enter(1000, 1).stamp, stamp) << "it has not begun anew";
}

// The half of it that FairShare leaves to others: stamps are of no use if the loop does not heed
// them.
TEST(EventLoop, CallsWhatIsReadyByItsOrder) {
  EventLoop loop;
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe(pipe.data()), 0);
  ASSERT_EQ(::write(pipe[1], "x", 1), 1);
  std::vector<int> called;
  std::array<EventLoop::Source, 3> sources;
  std::array<int, 3> copies{};
  const std::array<std::int64_t, 3> orders = {30, 10, 20};
  for (std::size_t i = 0; i < sources.size(); i++) {
    copies[i] = ::dup(pipe[0]);
    sources[i] = loop.on_readable(copies[i], [&, i] {
      called.push_back(static_cast<int>(orders[i]));
      if (called.size() == sources.size()) return loop.stop(0);
      sources[i].set_order(orders[i] + 100);  // its next turn comes after those of the others
    });
    sources[i].set_order(orders[i]);
  }
  EXPECT_EQ(loop.run(), 0);
  EXPECT_EQ(called, (std::vector<int>{10, 20, 30}));
  sources = {};
  for (const int fd : {pipe[0], pipe[1], copies[0], copies[1], copies[2]}) ::close(fd);
}

}  // namespace
}  // namespace psp
