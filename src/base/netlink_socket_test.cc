// SPDX-License-Identifier: Apache-2.0
//
// Requests to the kernel, and a stranger who answers in its place. In a network namespace of the
// test's own, where root may send to anybody's netlink socket; skipped without root. Shown: the
// stranger's messages are refused (ECONNREFUSED), and what is read is the kernel's. Not shown: what
// is sent in the instant before the socket is connected.
#include "netlink_socket.hh"

#include <cerrno>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <vector>

#include "unique_fd.hh"

namespace psp {
namespace {

// say sends a message of that type to `of`, before any answer of the kernel's.
bool say(const NetlinkSocket& of, std::uint16_t type) {
  const UniqueFd stranger(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  sockaddr_nl to{};
  socklen_t length = sizeof to;
  if (!stranger || ::getsockname(of.fd(), reinterpret_cast<sockaddr*>(&to), &length) != 0)
    return false;
  char room[NLMSG_LENGTH(sizeof(nlmsgerr))] = {};
  nlmsghdr header{.nlmsg_len = sizeof room,
                  .nlmsg_type = type,
                  .nlmsg_flags = 0,
                  .nlmsg_seq = 0,
                  .nlmsg_pid = to.nl_pid};
  std::memcpy(room, &header, sizeof header);
  return ::sendto(stranger.get(), room, sizeof room, MSG_DONTWAIT,
                  reinterpret_cast<const sockaddr*>(&to),
                  sizeof to) == static_cast<ssize_t>(sizeof room);
}

// ask_for_links returns the request, with room for the answer.
std::vector<char> ask_for_links(std::uint16_t flags) {
  std::vector<char> room(32768);
  nlmsghdr* request = mnl_nlmsg_put_header(room.data());
  request->nlmsg_type = RTM_GETLINK;
  request->nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
  auto* link = static_cast<ifinfomsg*>(mnl_nlmsg_put_extra_header(request, sizeof(ifinfomsg)));
  link->ifi_index = (flags & NLM_F_DUMP) != 0 ? 0 : 1;
  return room;
}

class NetlinkSocketTest : public testing::Test {
 protected:
  // alone runs `work` in a thread that has a network namespace of its own.
  static void alone(const std::function<void()>& work) {
    std::string lacking;
    std::thread([&] {
      if (::unshare(CLONE_NEWNET) != 0)
        lacking = std::string("needs root: unshare(CLONE_NEWNET): ") + std::strerror(errno);
      else
        work();
    }).join();
    if (!lacking.empty()) GTEST_SKIP() << lacking;
  }
};

TEST_F(NetlinkSocketTest, WhatAStrangerSaysInTheKernelsPlaceIsRefused) {
  alone([] {
    const NetlinkSocket nl(NETLINK_ROUTE);
    ASSERT_TRUE(nl);
    for (const std::uint16_t type : {NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP}) {
      EXPECT_FALSE(say(nl, type));
      EXPECT_EQ(errno, ECONNREFUSED);
    }
    int links = 0;
    auto room = ask_for_links(NLM_F_DUMP);
    ASSERT_TRUE(nl.dump(room, [&](const nlmsghdr& message) {
      links += message.nlmsg_type == RTM_NEWLINK ? 1 : 0;
    })) << std::strerror(errno);
    EXPECT_GE(links, 1);
    room = ask_for_links(0);
    ASSERT_TRUE(nl.exchange(room)) << std::strerror(errno);
    EXPECT_EQ(reinterpret_cast<const nlmsghdr*>(room.data())->nlmsg_type, RTM_NEWLINK);
  });
}

TEST_F(NetlinkSocketTest, WhatTheKernelRefusesIsAnErrno) {
  alone([] {
    const NetlinkSocket nl(NETLINK_ROUTE);
    ASSERT_TRUE(nl);
    auto room = ask_for_links(0);
    auto* link = static_cast<ifinfomsg*>(
        mnl_nlmsg_get_payload(reinterpret_cast<const nlmsghdr*>(room.data())));
    link->ifi_index = 12345;
    EXPECT_FALSE(nl.exchange(room));
    EXPECT_EQ(errno, ENODEV);
  });
}

}  // namespace
}  // namespace psp
