// SPDX-License-Identifier: Apache-2.0
//
// What sock_diag tells of sockets that have gone is believed only if the kernel says it. Root of a
// container may send to the multicast group that pspd listens to; believed, he could have keys
// dropped of connections that are alive. Both are sent for real: a forged message, which must
// arrive and be passed over, and the kernel's own of a listener that is closed. Needs root; skipped
// else. Many events at once: netns_test.cc.
#include "sock_diag.hh"

#include <gtest/gtest.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include "netns_test_support.hh"

namespace psp::kernel {
namespace {

// say_gone sends what the kernel says when a TCP socket has gone: root of a namespace may send it
// to the group there, and who listens for all namespaces hears it.
bool say_gone(std::uint64_t cookie) {
  const UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  sockaddr_nl to{};
  to.nl_family = AF_NETLINK;
  to.nl_groups = 1u << (SKNLGRP_INET_TCP_DESTROY - 1);
  struct {
    nlmsghdr header;
    inet_diag_msg socket;
  } message{};
  message.header.nlmsg_len = sizeof message;
  message.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  message.socket.idiag_family = AF_INET;
  message.socket.id.idiag_cookie[0] = static_cast<std::uint32_t>(cookie);
  message.socket.id.idiag_cookie[1] = static_cast<std::uint32_t>(cookie >> 32);
  return ::sendto(fd.get(), &message, sizeof message, 0, reinterpret_cast<const sockaddr*>(&to),
                  sizeof to) == sizeof message;
}

TEST(DestroyEvents, AreNotTakenFromAProcess) {
  const test::PrivateNetns netns;
  if (!netns.entered()) GTEST_SKIP() << netns.why();
  auto events = DestroyEvents::open();
  ASSERT_TRUE(events) << events.error();
  ASSERT_TRUE(say_gone(4711));
  pollfd ready{events->fd(), POLLIN, 0};
  ASSERT_EQ(::poll(&ready, 1, 5000), 1) << "it did not come at all";
  events->read([](const SecuredSocket& socket) {
    ADD_FAILURE() << "who said that " << socket.cookie() << " has gone?";
  });
}

TEST(DestroyEvents, AreTakenFromTheKernel) {
  const test::PrivateNetns netns;
  if (!netns.entered()) GTEST_SKIP() << netns.why();
  auto events = DestroyEvents::open();
  ASSERT_TRUE(events) << events.error();
  UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  std::uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  ASSERT_EQ(::getsockopt(socket.get(), SOL_SOCKET, SO_COOKIE, &cookie, &size), 0);
  sockaddr_in any{};
  any.sin_family = AF_INET;
  ASSERT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&any), sizeof any), 0);
  ASSERT_EQ(::listen(socket.get(), 1), 0);
  socket.reset();
  pollfd ready{events->fd(), POLLIN, 0};
  bool heard = false;
  while (!heard && ::poll(&ready, 1, 5000) == 1)
    events->read([&](const SecuredSocket& gone) { heard |= gone.cookie() == cookie; });
  EXPECT_TRUE(heard);
}

}  // namespace
}  // namespace psp::kernel
