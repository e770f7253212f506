// SPDX-License-Identifier: Apache-2.0
//
// A virtual machine that is cloned or set back: its keys are another's too. And those who pretend
// it.
//
// Two machines with one key and one IV counter would seal different text under the same pair, and
// GCM gives both away. So all keys go before anything is sealed again, resets included: the cable
// must see none. No machine is cloned here: the kernel's message is made by the test and taken for
// the kernel's by a preloaded library (as_kernel.cc). Without that library the same message, from
// root of the host or of a container, must change nothing.
#include <cstdlib>
#include <gtest/gtest.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include "lab.hh"

namespace psp::lab {
namespace {

using namespace std::string_literals;

// pretend sends what the kernel says of a clone, by way of the kernel, in a namespace. False:
// refused.
bool pretend(const Netns& netns) {
  const std::string text =
      "change@/devices/LNXSYSTM:00/VMGENCTR:00\0ACTION=change\0NEW_VMGENID=1\0"s;
  const InNetns inside(netns);
  const UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT));
  sockaddr_nl to{};
  to.nl_family = AF_NETLINK;
  nlmsghdr header{};
  header.nlmsg_type = NLMSG_MIN_TYPE;  // the kernel takes no less for a message
  header.nlmsg_flags = NLM_F_REQUEST;
  header.nlmsg_len = static_cast<std::uint32_t>(sizeof header + text.size());
  iovec parts[2] = {{&header, sizeof header}, {const_cast<char*>(text.data()), text.size()}};
  msghdr message{};
  message.msg_name = &to;
  message.msg_namelen = sizeof to;
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  return ::sendmsg(fd.get(), &message, 0) > 0;
}

TEST(VmFork, DropsAllKeysAndAbortsWhatTheySecured) {
  PSP_NEEDS_LAB();
  Lab lab;
  ::setenv("LD_PRELOAD", PSP_AS_KERNEL_PATH, 1);
  Pspd& daemon = lab.start(From::kA);
  ::unsetenv("LD_PRELOAD");
  lab.start(From::kB);
  auto secured = lab.connect(Kind::kIpv4), half = lab.connect(Kind::kIpv4);
  secure(lab, secured);
  const auto old = lab.client(From::kA).rx_assoc(half.a.get(), Version::kAesGcm128);
  ASSERT_TRUE(old);
  const std::size_t mark = lab.cable().mark();
  ASSERT_TRUE(pretend(lab.ns(From::kA)));
  ASSERT_TRUE(daemon.wait_said("cloned or set back to a snapshot (vmgenid): all keys are new, 1 "));
  EXPECT_EQ(socket_error(secured.a.get()), ECONNABORTED);
  for (const Seen& seen : lab.cable().since(mark))
    EXPECT_FALSE(seen.psp && seen.from == From::kA) << "sealed with a key that another has too";
  EXPECT_FALSE(lab.client(From::kA).tx_assoc(half.a.get(), Version::kAesGcm128, old->rx))
      << "a Tx key that another may install too";
  EXPECT_EQ(lab.stats(From::kA).key_rotations, 2u) << "the previous device key is gone too";
  auto next = lab.connect(Kind::kIpv4);
  secure(lab, next);
  send_all(next.a.get(), octets_of("new keys"));
  EXPECT_EQ(receive(next.b.get(), 8), octets_of("new keys"));
}

TEST(VmFork, OfRootInTheNamespaceOrAContainerIsNoNews) {
  PSP_NEEDS_LAB();
  Lab lab;
  lab.start(From::kA);
  lab.start(From::kB);
  auto connection = lab.connect(Kind::kIpv4);
  secure(lab, connection);
  EXPECT_TRUE(pretend(lab.ns(From::kA))) << "root of the host may say what it likes";
  const Netns container;
  EXPECT_TRUE(pretend(container));
  // Served after the message: whatever that was to cause has happened.
  EXPECT_EQ(lab.stats(From::kA).key_rotations, 0u);
  send_all(connection.a.get(), octets_of("goes on"));
  EXPECT_EQ(receive(connection.b.get(), 7), octets_of("goes on"));
  EXPECT_EQ(lab.pspd(From::kA).log().find("vmgenid"), std::string::npos);
}

}  // namespace
}  // namespace psp::lab
