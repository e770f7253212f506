// SPDX-License-Identifier: Apache-2.0
//
// Sockets whose end went unheard, over the models of the core: which have gone, how often they are
// counted, and that nothing is forgotten. Time is a number, and a walk ends when the test says so,
// with the sockets that it says: so a list that leaves one out is as easy to have as a whole one.
//
// That the kernel does drop such news, and leaves sockets out of a list, is not shown here.
#include "recount.hh"

#include <array>
#include <gtest/gtest.h>
#include <set>

#include "device/core_fakes.hh"

#include "socket_lists_fakes.hh"

namespace psp::host {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kNetns = 100;

class RecountTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(core_.add_device({kNetns, 7}, "eth0", VersionSet::all(), driver_));
    ASSERT_TRUE(core_.set_versions(1, VersionSet::all()));
  }
  // secure gives a socket keys: an Rx key, and a Tx key too if it says so.
  void secure(std::uint64_t cookie, bool tx) {
    const int fd = static_cast<int>(cookie);
    sockets_.sockets[fd].info = {
        .cookie = cookie, .netns = kNetns, .route_ifindex = 7, .established = true};
    const device::AssocRequest request{
        .fd = fd, .dev_id = 1, .version = Version::kAesGcm128, .tx_key = {}};
    ASSERT_TRUE(core_.rx_assoc(request));
    if (!tx) return;
    device::AssocRequest with_key = request;
    with_key.tx_key = {.spi = 9, .key = key_};
    ASSERT_TRUE(core_.tx_assoc(with_key));
  }
  bool open(std::uint64_t cookie) const {
    const auto* association = core_.associations().find(cookie);
    return association != nullptr && !association->ended;
  }
  // count goes on to the end, with what the kernel lists each time. Returns how many lists it took.
  int count(const std::vector<std::uint64_t>& listed) {
    recount_.begin();
    return go_on(listed);
  }
  int go_on(const std::vector<std::uint64_t>& listed) {
    const int before = walk_.begun;
    for (bool more = true; more; now_ += 5ms) {
      lists_.turn(now_);
      if (walk_.walking) walk_.end(listed, 1us);
      lists_.turn(now_);
      more = recount_.turn(now_);
    }
    return walk_.begun - before;
  }

  static constexpr std::array<std::uint8_t, 16> key_ = {1, 2, 3};
  device::FakeDriver driver_;
  device::ModelSockets sockets_;
  device::Core core_{sockets_};
  std::set<std::uint64_t> released_;  // closed by their applications
  Departures departures_{
      core_,
      {.is_released = [this](std::uint64_t cookie) { return released_.contains(cookie); },
       .forget = [](std::uint64_t) { return true; }}};
  FakeWalk walk_;
  SocketLists lists_{walk_, [] {}};
  Recount recount_{lists_, departures_};
  Departures::TimePoint now_{1000s};
};

TEST_F(RecountTest, WithoutALossNothingIsAskedFor) {
  secure(1, true);
  EXPECT_EQ(count({}), 0);
  EXPECT_TRUE(open(1));
}

TEST_F(RecountTest, ASocketThatNoListHasAndThatIsClosedHasGone) {
  for (const std::uint64_t cookie : {1, 2, 3}) secure(cookie, true);
  released_ = {1, 2};
  recount_.missed();
  count({2});  // 1 has gone, 2 is closing, 3 is disconnected
  EXPECT_FALSE(open(1));
  EXPECT_TRUE(open(2));
  EXPECT_TRUE(open(3));
}

TEST_F(RecountTest, WhereAllAreListedOneListIsEnough) {
  secure(1, true);
  recount_.missed();
  EXPECT_EQ(count({1}), 1);
  EXPECT_EQ(count({1}), 0) << "a loss is looked after once";
}

TEST_F(RecountTest, ASocketThatOneListLeavesOutIsThere) {
  secure(1, false);
  released_ = {1};  // of one without a Tx key the kernel's programs have no note
  recount_.missed();
  recount_.begin();
  lists_.turn(now_);
  walk_.end({}, 1us);
  lists_.turn(now_);
  EXPECT_TRUE(recount_.turn(now_));
  EXPECT_EQ(go_on({1}), 1);
  EXPECT_TRUE(open(1));
}

TEST_F(RecountTest, ASocketThatIsSecuredMeanwhileIsThere) {
  secure(1, true);
  recount_.missed();
  recount_.begin();
  lists_.turn(now_);
  secure(2, false);
  released_ = {2};
  go_on({1});
  EXPECT_TRUE(open(2));
}

TEST_F(RecountTest, AnEndThatIsHeardMeanwhileIsNotPutOff) {
  secure(1, true);
  released_ = {1};
  recount_.missed();
  recount_.begin();
  departures_.depart(1, now_);
  now_ += 100s;
  go_on({});
  departures_.expire(now_ - 100s + Departures::kTimeWait);
  EXPECT_EQ(core_.associations().find(1), nullptr);
  EXPECT_FALSE(departures_.pending());
}

TEST_F(RecountTest, ALossInTheMiddleIsForTheNextTime) {
  secure(1, true);
  recount_.missed();
  recount_.begin();
  recount_.missed();
  recount_.missed();
  recount_.begin();
  EXPECT_EQ(go_on({1}), 1);
  EXPECT_EQ(count({1}), 1);
  EXPECT_EQ(count({1}), 0);
}

TEST_F(RecountTest, ALossIsNotForgottenIfThereIsNoList) {
  secure(1, true);
  released_ = {1};
  recount_.missed();
  recount_.begin();
  lists_.turn(now_);
  walk_.fail();
  lists_.turn(now_);
  EXPECT_FALSE(recount_.turn(now_));
  EXPECT_TRUE(open(1));
  count({});
  EXPECT_FALSE(open(1));
}

TEST_F(RecountTest, ATurnLooksAtABoundedNumber) {
  for (std::uint64_t cookie = 1; cookie <= Recount::kAtOnce + 1; cookie++) secure(cookie, false);
  recount_.missed();
  recount_.begin();
  lists_.turn(now_);
  std::vector<std::uint64_t> all;
  for (std::uint64_t cookie = 1; cookie <= Recount::kAtOnce + 1; cookie++) all.push_back(cookie);
  walk_.end(all, 1us);
  lists_.turn(now_);
  EXPECT_TRUE(recount_.turn(now_));
  EXPECT_FALSE(recount_.turn(now_));
}

}  // namespace
}  // namespace psp::host
