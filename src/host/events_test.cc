// SPDX-License-Identifier: Apache-2.0
//
// What the kernel tells, in a namespace of the test's own, heard by a real event loop: a netdev
// that comes is told, and what a process says to the same group is not. Silence is shown by a timer
// that ends the loop.
//
// Needs root, and is skipped where the kernel does not let it listen. Sockets that go, and a
// virtual machine that is cloned, are tested with pspd (tests/netns).
#include "events.hh"

#include <array>
#include <gtest/gtest.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include "base/event_loop.hh"
#include "base/unique_fd.hh"
#include "kernel/netns_test_support.hh"

namespace psp::host {
namespace {

using namespace std::chrono_literals;

class EventsTest : public kernel::test::TapTest {
 protected:
  EventLoop loop_;
  int changes_ = 0;
  bool at_home_ = false;
  Events events_{loop_,
                 {.socket_gone = [](std::uint64_t) {},
                  .sockets_missed = [] {},
                  .netdevs_changed =
                      [this](bool at_home) {
                        changes_++;
                        at_home_ = at_home;
                        loop_.stop(0);
                      },
                  .vm_forked = [] {}}};
};

TEST_F(EventsTest, TellOfANetdevThatComes) {
  ASSERT_TRUE(events_.listen());
  if (const auto watching = events_.watch(); !watching) GTEST_SKIP() << watching.error();
  ASSERT_TRUE(loop_.complete());
  const auto tap = kernel::Tap::open("psp%d", 1);
  ASSERT_TRUE(tap);
  EXPECT_EQ(loop_.run(), 0);
  EXPECT_EQ(changes_, 1);
  EXPECT_TRUE(at_home_);
}

// Whoever is root in a container may say things to the groups of its namespace.
TEST_F(EventsTest, TellNothingOfWhatAProcessSaysToTheGroup) {
  ASSERT_TRUE(events_.listen());
  if (const auto watching = events_.watch(); !watching) GTEST_SKIP() << watching.error();
  const UniqueFd process(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  sockaddr_nl group{};
  group.nl_family = AF_NETLINK;
  group.nl_groups = RTMGRP_LINK;
  const std::array<char, 32> junk{};
  ASSERT_EQ(::sendto(process.get(), junk.data(), junk.size(), 0,
                     reinterpret_cast<const sockaddr*>(&group), sizeof group),
            static_cast<ssize_t>(junk.size()));
  const auto timer = loop_.every(20ms, [this] { loop_.stop(3); });
  EXPECT_EQ(loop_.run(), 3);
  EXPECT_EQ(changes_, 0);
}

TEST_F(EventsTest, TellNothingWhereNothingHappens) {
  ASSERT_TRUE(events_.listen());
  if (const auto watching = events_.watch(); !watching) GTEST_SKIP() << watching.error();
  const auto timer = loop_.every(20ms, [this] { loop_.stop(3); });
  EXPECT_EQ(loop_.run(), 3);
  EXPECT_EQ(changes_, 0);
}

}  // namespace
}  // namespace psp::host
