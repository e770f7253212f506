// SPDX-License-Identifier: Apache-2.0
//
// Departures when memory runs out, at each allocation once: no association is lost. What could not
// be written down counts as open, and the next look finds it again.
//
// A program of its own, as it has another operator new (base/scarce_memory.hh).
#include <array>
#include <gtest/gtest.h>
#include <new>
#include <set>

#include "base/scarce_memory.hh"
#include "device/core_fakes.hh"

#include "departures.hh"
#include "recount.hh"
#include "socket_lists_fakes.hh"

namespace psp::host {
namespace {

constexpr std::uint64_t kNetns = 100, kSockets = 200;
constexpr std::array<std::uint8_t, 16> kKey = {1, 2, 3};

class DeparturesMemory : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(core_.add_device({kNetns, 7}, "eth0", VersionSet::all(), driver_));
    for (std::uint64_t cookie = 1; cookie <= kSockets; cookie++) {
      const int fd = static_cast<int>(cookie);
      sockets_.sockets[fd].info = {
          .cookie = cookie, .netns = kNetns, .route_ifindex = 7, .established = true};
      device::AssocRequest request{
          .fd = fd, .dev_id = 1, .version = Version::kAesGcm128, .tx_key = {}};
      ASSERT_TRUE(core_.rx_assoc(request));
      request.tx_key = {.spi = 9, .key = kKey};
      ASSERT_TRUE(core_.tx_assoc(request));
    }
  }
  // without_memory does something whose next allocation fails; how often it did not get through.
  template <typename Work>
  static int without_memory(const Work& work) {
    const ScarceMemory next_fails(1);
    try {
      work();
    } catch (const std::bad_alloc&) {
      return 1;
    }
    return 0;
  }

  device::FakeDriver driver_;
  device::ModelSockets sockets_;
  device::Core core_{sockets_};
  std::set<std::uint64_t> forgotten_;
  bool told_ = true;  // the kernel lets go of what it was told
  Departures departures_{core_,
                         {.is_released = [](std::uint64_t) { return true; },
                          .forget =
                              [this](std::uint64_t cookie) {
                                const ScarceMemory::Plenty kernels;
                                if (told_) forgotten_.insert(cookie);
                                return told_;
                              }}};
  const Departures::TimePoint start_{std::chrono::seconds(1000)};
  const Departures::TimePoint later_ = start_ + Departures::kTimeWait;
};

TEST_F(DeparturesMemory, ASocketThatCouldNotBeWrittenDownIsFoundAgain) {
  int lost = 0;
  for (std::uint64_t cookie = 1; cookie <= kSockets; cookie++)
    lost += without_memory([&] { departures_.depart(cookie, start_); });
  EXPECT_GT(lost, 0);
  const auto open = departures_.open();
  EXPECT_EQ(open.size(), static_cast<std::size_t>(lost));
  for (const std::uint64_t cookie : open) EXPECT_TRUE(departures_.depart_unheard(cookie, start_));
  while (departures_.expire(later_)) {
  }
  EXPECT_EQ(forgotten_.size(), kSockets);
  EXPECT_EQ(core_.associations().size(), 0u);
}

TEST_F(DeparturesMemory, ASocketWhoseEndWasHeardIsCountedAgain) {
  FakeWalk walk;
  SocketLists lists(walk, [] {});
  Recount recount(lists, departures_);
  for (std::uint64_t cookie = 1; cookie <= kSockets; cookie++)
    without_memory([&] { recount.gone(cookie, start_); });
  EXPECT_FALSE(departures_.open().empty());
  recount.begin();
  for (bool more = true; more; more = recount.turn(start_)) {
    lists.turn(start_);
    if (walk.walking) walk.end({}, std::chrono::microseconds(1));
    lists.turn(start_);
  }
  EXPECT_TRUE(departures_.open().empty());
}

TEST_F(DeparturesMemory, WhatTheKernelKeepsIsTriedAgainThoughItCouldNotBeWrittenDown) {
  for (std::uint64_t cookie = 1; cookie <= kSockets; cookie++) departures_.depart(cookie, start_);
  told_ = false;
  int lost = 0;
  for (std::uint64_t turn = 0; turn < 4 * kSockets; turn++)
    lost += without_memory([&] { (void)departures_.expire(later_); });
  EXPECT_GT(lost, 0);
  for (int turn = 0; turn < 100; turn++) {
    departures_.look_again();
    lost += without_memory([&] { (void)departures_.expire(later_); });
  }
  told_ = true;
  departures_.look_again();
  while (departures_.expire(later_)) {
  }
  EXPECT_EQ(forgotten_.size(), kSockets);
}

TEST_F(DeparturesMemory, ANamespaceThatIsNoMoreLosesAllAtTheNextTry) {
  int lost = 0;
  while (without_memory([&] { departures_.release_all(kNetns, start_); }) != 0) {
    departures_.release_all(kNetns, start_);
    lost++;
  }
  EXPECT_GT(lost, 0);
  while (departures_.expire(later_)) {
  }
  EXPECT_EQ(forgotten_.size(), kSockets);
  EXPECT_EQ(core_.associations().size(), 0u);
}

}  // namespace
}  // namespace psp::host
