// SPDX-License-Identifier: Apache-2.0
//
// The one uevent that says it, among others that look like it, and one that a process sends.
// Believed, it makes pspd drop all keys, so who can send it could end every connection: root who
// sends it to the listener, or by way of the kernel, must not be heard. Sent for real, by netlink;
// needs root, skipped else. What pspd does then: tests/netns/vm_fork_test.cc. No virtual machine is
// really cloned.
#include "vm_fork.hh"

#include <gtest/gtest.h>
#include <linux/netlink.h>
#include <poll.h>
#include <string>
#include <sys/socket.h>
#include <unistd.h>

namespace psp::kernel {
namespace {

using namespace std::string_literals;

const std::string kFork =
    "change@/devices/LNXSYSTM:00/VMGENCTR:00\0ACTION=change\0SUBSYSTEM=acpi\0NEW_VMGENID=1\0SEQNUM=7\0"s;

TEST(VmFork, IsKnownByItsSetting) {
  EXPECT_TRUE(is_vm_fork(kFork));
  EXPECT_FALSE(is_vm_fork("add@/devices/x\0NEW_VMGENID=1\0"s));
  EXPECT_FALSE(is_vm_fork("change@/devices/x\0OLD_NEW_VMGENID=1\0"s));
  EXPECT_FALSE(is_vm_fork("change@/devices/x\0NEW_VMGENID=10\0"s));
  EXPECT_FALSE(is_vm_fork("change@/devices/NEW_VMGENID=1"s));
  EXPECT_FALSE(is_vm_fork(""));
}

// send sends a message of a process, to a listener by its port or (0) to the kernel, which hands it
// on to all listeners as its own, but for the process in its credentials. False: it is not allowed.
bool send(const std::string& text, std::uint32_t port) {
  const UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT));
  sockaddr_nl to{};
  to.nl_family = AF_NETLINK;
  to.nl_pid = port;
  nlmsghdr header{};
  header.nlmsg_type = NLMSG_MIN_TYPE;  // the kernel takes no less for a message
  header.nlmsg_flags = NLM_F_REQUEST;
  header.nlmsg_len = static_cast<std::uint32_t>(sizeof header + text.size());
  iovec parts[2] = {{&header, sizeof header}, {const_cast<char*>(text.data()), text.size()}};
  msghdr message{};
  message.msg_name = &to;
  message.msg_namelen = sizeof to;
  message.msg_iov = port == 0 ? parts : parts + 1;
  message.msg_iovlen = port == 0 ? 2 : 1;
  return ::sendmsg(fd.get(), &message, 0) > 0;
}

TEST(VmFork, IsNotTakenFromAProcess) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root: nobody else may send such messages at all";
  const auto events = VmForkEvents::open();
  ASSERT_TRUE(events) << events.error();
  sockaddr_nl own{};
  socklen_t size = sizeof own;
  ASSERT_EQ(::getsockname(events->fd(), reinterpret_cast<sockaddr*>(&own), &size), 0);
  for (const std::uint32_t port : {own.nl_pid, 0u}) {
    ASSERT_TRUE(send(kFork, port)) << port;
    pollfd ready{events->fd(), POLLIN, 0};
    ASSERT_EQ(::poll(&ready, 1, 5000), 1) << "it did not come at all: " << port;
    EXPECT_FALSE(events->read()) << "root is not the kernel: " << port;
  }
  ASSERT_TRUE(send("add@/devices/x\0NEW_VMGENID=1\0"s, own.nl_pid));
  pollfd ready{events->fd(), POLLIN, 0};
  EXPECT_EQ(::poll(&ready, 1, 0), 0) << "others than changes take room";
}

}  // namespace
}  // namespace psp::kernel
