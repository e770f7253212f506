// SPDX-License-Identifier: Apache-2.0
//
// Sockets that go, over the models of the core: what is left of them, for how long, and what goes.
// Time is a number. The kernel's two answers, whether an application has closed a socket and
// whether what it was told about it is gone, are sets that the tests fill.
//
// That TIME_WAIT is sealed on the wire, and that the keys go from real maps, is tested with pspd
// (tests/netns/socket_end_test.cc).
#include "departures.hh"

#include <array>
#include <gtest/gtest.h>
#include <set>
#include <vector>

#include "device/core_fakes.hh"

namespace psp::host {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kNetns = 100;

class DeparturesTest : public testing::Test {
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
  // look is what is done each second, to its end.
  void look() {
    departures_.look_again();
    while (departures_.expire(start_ + Departures::kTimeWait)) {
    }
  }
  bool known(std::uint64_t cookie) const { return core_.associations().find(cookie) != nullptr; }

  static constexpr std::array<std::uint8_t, 16> key_ = {1, 2, 3};
  device::FakeDriver driver_;
  device::ModelSockets sockets_;
  device::Core core_{sockets_};
  std::set<std::uint64_t> released_;  // closed by their applications
  std::vector<std::uint64_t> forgotten_;
  std::set<std::uint64_t> stays_;   // what the kernel does not drop
  std::set<std::uint64_t> untold_;  // of what it tells nothing
  Departures departures_{core_,
                         {.is_released = [this](std::uint64_t cookie) -> std::optional<bool> {
                            if (untold_.contains(cookie)) return std::nullopt;
                            return released_.contains(cookie);
                          },
                          .forget =
                              [this](std::uint64_t cookie) {
                                forgotten_.push_back(cookie);
                                return !stays_.contains(cookie);
                              }}};
  const Departures::TimePoint start_{1000s};
};

TEST_F(DeparturesTest, WithAnRxKeyOnlyASocketLeavesNothing) {
  secure(1, false);
  departures_.depart(1, start_);
  EXPECT_FALSE(known(1));
  EXPECT_FALSE(departures_.pending());
}

TEST_F(DeparturesTest, WhatAFailedTxAssocHasLeftGoesWithTheSocket) {
  secure(1, false);
  stays_ = {1};
  departures_.depart(1, start_);
  EXPECT_FALSE(known(1));
  EXPECT_EQ(forgotten_, std::vector<std::uint64_t>{1});
  stays_ = {};
  released_ = {1};
  look();
  look();
  EXPECT_EQ(forgotten_, (std::vector<std::uint64_t>{1, 1}));
}

TEST_F(DeparturesTest, AnInheritedSocketWithNewKeysDepartsAsAllDo) {
  departures_.inherit(1);
  secure(1, true);
  released_ = {1};
  departures_.look_again();
  departures_.depart(1, start_);
  departures_.expire(start_);
  EXPECT_TRUE(forgotten_.empty());
  look();
  EXPECT_EQ(forgotten_, std::vector<std::uint64_t>{1});
}

TEST_F(DeparturesTest, ATxKeyStaysForTimeWait) {
  secure(1, true);
  departures_.depart(1, start_);
  EXPECT_TRUE(departures_.pending());
  departures_.expire(start_ + Departures::kTimeWait - 1ms);
  EXPECT_TRUE(known(1));
  EXPECT_EQ(driver_.tx_keys.size(), 1u);
  EXPECT_TRUE(forgotten_.empty());
  departures_.expire(start_ + Departures::kTimeWait);
  EXPECT_FALSE(known(1));
  EXPECT_TRUE(driver_.tx_keys.empty());
  EXPECT_EQ(forgotten_, std::vector<std::uint64_t>{1});
  EXPECT_FALSE(departures_.pending());
}

TEST_F(DeparturesTest, WhatIsNotKnownDoesNotDepart) {
  departures_.depart(1, start_);
  EXPECT_FALSE(departures_.pending());
}

TEST_F(DeparturesTest, AnUnheardEndIsOneIfTheSocketIsClosed) {
  for (const std::uint64_t cookie : {1, 2}) secure(cookie, true);
  released_ = {1};
  for (const std::uint64_t cookie : {1, 2, 3})
    EXPECT_TRUE(departures_.depart_unheard(cookie, start_));
  EXPECT_EQ(departures_.open(), std::vector<std::uint64_t>{2});
  departures_.expire(start_ + Departures::kTimeWait);
  EXPECT_FALSE(known(1));
  EXPECT_TRUE(known(2));
}

TEST_F(DeparturesTest, OfWhatTheKernelDoesNotTellItIsAskedAgain) {
  secure(1, true);
  released_ = untold_ = {1};
  EXPECT_FALSE(departures_.depart_unheard(1, start_));
  EXPECT_EQ(departures_.open(), std::vector<std::uint64_t>{1});
  untold_ = {};
  EXPECT_TRUE(departures_.depart_unheard(1, start_));
  EXPECT_TRUE(departures_.open().empty());
}

TEST_F(DeparturesTest, AnEndThatWasHeardIsNotPutOff) {
  secure(1, true);
  released_ = {1};
  departures_.depart(1, start_);
  EXPECT_TRUE(departures_.depart_unheard(1, start_ + 100s));
  departures_.expire(start_ + Departures::kTimeWait);
  EXPECT_FALSE(known(1));
  EXPECT_FALSE(departures_.pending());
}

TEST_F(DeparturesTest, InheritedSocketsAreForgottenWhenTheyAreClosed) {
  departures_.inherit(5);
  departures_.inherit(6);
  released_ = {6};
  look();
  EXPECT_EQ(forgotten_, std::vector<std::uint64_t>{6});
  released_.insert(5);
  look();
  EXPECT_EQ(forgotten_, (std::vector<std::uint64_t>{6, 5}));
  look();
  EXPECT_EQ(forgotten_.size(), 2u);
}

TEST_F(DeparturesTest, InheritedSocketsAreLookedAtInTurnABoundedNumberOfThemAtALook) {
  const std::size_t all = Departures::kInheritedAtALook + 1;
  for (std::uint64_t cookie = 1; cookie <= all; cookie++) departures_.inherit(cookie);
  released_ = {all};
  look();
  EXPECT_TRUE(forgotten_.empty());
  look();
  EXPECT_EQ(forgotten_, std::vector<std::uint64_t>{all});
}

TEST_F(DeparturesTest, OneTurnLetsGoOfABoundedNumberAndTheNextOnesOfTheRest) {
  constexpr std::uint64_t kAll = 1000;
  for (std::uint64_t cookie = 1; cookie <= kAll; cookie++) {
    secure(cookie, true);
    departures_.depart(cookie, start_);
    departures_.inherit(kAll + cookie);
    released_.insert(kAll + cookie);
  }
  departures_.look_again();
  for (std::size_t gone = 0; gone < 2 * kAll;) {
    const bool more = departures_.expire(start_ + Departures::kTimeWait);
    EXPECT_LE(forgotten_.size() - gone, Departures::kAtOnce);
    ASSERT_GT(forgotten_.size(), gone);
    gone = forgotten_.size();
    EXPECT_EQ(more, gone < 2 * kAll);
  }
  EXPECT_FALSE(departures_.pending());
}

TEST_F(DeparturesTest, WhatTheKernelDoesNotDropIsTriedAgain) {
  secure(1, true);
  departures_.inherit(5);
  released_ = {1, 5};
  stays_ = {1, 5};
  departures_.depart(1, start_);
  departures_.expire(start_ + Departures::kTimeWait);
  EXPECT_FALSE(known(1));
  stays_.clear();
  forgotten_.clear();
  for (int i = 0; i < 2; i++) look();
  EXPECT_EQ(std::set(forgotten_.begin(), forgotten_.end()), (std::set<std::uint64_t>{1, 5}));
  EXPECT_EQ(forgotten_.size(), 2u) << "what it has dropped is not tried again";
}

TEST_F(DeparturesTest, ANamespaceThatEndsTakesAllKeysOfItsOwnAlongAtOnce) {
  secure(1, true);
  secure(2, false);
  secure(3, true);
  departures_.depart(3, start_);
  departures_.release_all(kNetns + 1, start_);
  EXPECT_TRUE(known(1));
  departures_.release_all(kNetns, start_);
  for (const std::uint64_t cookie : {1, 2, 3}) EXPECT_FALSE(known(cookie)) << cookie;
  EXPECT_TRUE(driver_.tx_keys.empty());
  EXPECT_FALSE(departures_.expire(start_));
  EXPECT_EQ(std::set(forgotten_.begin(), forgotten_.end()), (std::set<std::uint64_t>{1, 2, 3}));
}

}  // namespace
}  // namespace psp::host
