// SPDX-License-Identifier: Apache-2.0
//
// tx-assoc and what waits in the receive queue: clear octets that the application could still read
// refuse it, PSP octets do not.
//
// Else an attacker's octets from before would be read as if the peer had sealed them. The far end
// is a puppet, so the queue holds what a test wants: clear, sealed, out of order, one between the
// other, from before rx-assoc. The oracle is the kernel's errno and its words; where softpsp
// refuses more than a NIC would, docs/architecture.md says so. Kernel TLS on such a socket is
// refused as well.
#include <cerrno>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "puppet.hh"

namespace psp::lab {
namespace {

class Upgrade : public PuppetTest {
 protected:
  void expect_refused(Puppet& puppet) {
    const auto refused = puppet.tx_assoc();
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().sys_errno, EBUSY);
    EXPECT_EQ(refused.error().text, "Socket has incompatible segments already in the recv queue");
    EXPECT_EQ(puppet.state(), static_cast<unsigned>(PSP_STATE_RX));
  }
  static bool readable(const Puppet& puppet, std::size_t size) {
    return eventually([&] {
      Octets octets(size);
      return ::recv(puppet.fd(), octets.data(), size, MSG_PEEK | MSG_DONTWAIT) ==
             static_cast<ssize_t>(size);
    });
  }
};

TEST_P(Upgrade, WaitsUntilTheLastClearOctetIsRead) {
  Puppet puppet(*lab_, GetParam(), PSP_STATE_RX);
  puppet.send_clear({.seq = puppet.seq(), .ack = puppet.ack(), .payload = random_octets(20)});
  ASSERT_TRUE(readable(puppet, 20));
  expect_refused(puppet);
  EXPECT_EQ(receive(puppet.fd(), 19).size(), 19u);
  expect_refused(puppet);
  EXPECT_EQ(receive(puppet.fd(), 1).size(), 1u);
  const auto done = puppet.tx_assoc();
  EXPECT_TRUE(done) << done.error().message;
  EXPECT_EQ(puppet.state(), static_cast<unsigned>(PSP_STATE_TX));
}

TEST_P(Upgrade, RefusesKernelTlsFromRxAssocOn) {
  Puppet puppet(*lab_, GetParam(), PSP_STATE_NONE);
  const auto attach = [&] {
    constexpr char kNone[] = "none";  // no kernel has it: ENOENT unless it is refused before
    return ::setsockopt(puppet.fd(), IPPROTO_TCP, TCP_ULP, kNone, sizeof kNone) == 0 ? 0 : errno;
  };
  EXPECT_EQ(attach(), ENOENT);
  puppet.rx_assoc();
  EXPECT_EQ(attach(), EINVAL);
  ASSERT_TRUE(puppet.tx_assoc());
  EXPECT_EQ(attach(), EINVAL);
}

TEST_P(Upgrade, SeesClearOctetsFromBeforeRxAssoc) {
  Puppet puppet(*lab_, GetParam(), PSP_STATE_NONE);
  puppet.send_clear({.seq = puppet.seq(), .ack = puppet.ack(), .payload = random_octets(20)});
  ASSERT_TRUE(readable(puppet, 20));
  puppet.rx_assoc();
  expect_refused(puppet);
  EXPECT_EQ(receive(puppet.fd(), 20).size(), 20u);
  EXPECT_TRUE(puppet.tx_assoc());
}

TEST_P(Upgrade, SeesClearOctetsOutOfOrder) {
  for (const bool before_rx_assoc : {true, false}) {
    Puppet puppet(*lab_, GetParam(), before_rx_assoc ? PSP_STATE_NONE : PSP_STATE_RX);
    const std::size_t mark = cable().mark();
    puppet.send_clear({.seq = puppet.seq(10), .ack = puppet.ack(), .payload = random_octets(10)});
    ASSERT_TRUE(cable().find(mark, [&](const Seen& seen) {  // the duplicate ACK
      return seen.from == From::kA && of_flow(seen, puppet.flow());
    }));
    if (before_rx_assoc) puppet.rx_assoc();
    expect_refused(puppet);
    puppet.send_clear({.seq = puppet.seq(), .ack = puppet.ack(), .payload = random_octets(10)});
    ASSERT_TRUE(readable(puppet, 20));
    expect_refused(puppet);
    EXPECT_EQ(receive(puppet.fd(), 20).size(), 20u);
    EXPECT_TRUE(puppet.tx_assoc());
  }
}

TEST_P(Upgrade, DoesNotMindPspOctetsInTheQueueAndGoesToFullAtOnce) {
  Puppet puppet(*lab_, GetParam(), PSP_STATE_RX);
  const Octets data = random_octets(20);
  puppet.send_sealed({.seq = puppet.seq(), .ack = puppet.ack(), .payload = data});
  ASSERT_TRUE(readable(puppet, 20));
  ASSERT_TRUE(puppet.tx_assoc());
  EXPECT_EQ(puppet.state(), static_cast<unsigned>(PSP_STATE_FULL));
  EXPECT_EQ(receive(puppet.fd(), 20), data);
}

TEST_P(Upgrade, TellsClearOctetsFromPspOctetsInOneQueue) {
  Puppet puppet(*lab_, GetParam(), PSP_STATE_RX);
  const Octets clear = random_octets(20), sealed = random_octets(20);
  puppet.send_clear({.seq = puppet.seq(), .ack = puppet.ack(), .payload = clear});
  ASSERT_TRUE(readable(puppet, 20));
  puppet.send_sealed({.seq = puppet.seq(20), .ack = puppet.ack(), .payload = sealed});
  ASSERT_TRUE(readable(puppet, 40));
  expect_refused(puppet);
  EXPECT_EQ(receive(puppet.fd(), 20), clear);
  EXPECT_TRUE(puppet.tx_assoc());
  EXPECT_EQ(receive(puppet.fd(), 20), sealed);
}

TEST_P(Upgrade, SeesClearOctetsBetweenPspOctets) {
  for (const bool before_rx_assoc : {true, false}) {
    Puppet puppet(*lab_, GetParam(), before_rx_assoc ? PSP_STATE_NONE : PSP_STATE_RX);
    const std::size_t mark = cable().mark();
    puppet.send_clear({.seq = puppet.seq(10), .ack = puppet.ack(), .payload = random_octets(10)});
    ASSERT_TRUE(cable().find(mark, [&](const Seen& seen) {
      return seen.from == From::kA && of_flow(seen, puppet.flow());
    }));
    if (before_rx_assoc) puppet.rx_assoc();
    puppet.send_sealed({.seq = puppet.seq(20), .ack = puppet.ack(), .payload = random_octets(10)});
    puppet.send_sealed({.seq = puppet.seq(), .ack = puppet.ack(), .payload = random_octets(10)});
    ASSERT_TRUE(readable(puppet, 30));
    expect_refused(puppet);
    EXPECT_EQ(receive(puppet.fd(), 19).size(), 19u);
    expect_refused(puppet);
    EXPECT_EQ(receive(puppet.fd(), 1).size(), 1u);
    EXPECT_TRUE(puppet.tx_assoc());
    EXPECT_EQ(receive(puppet.fd(), 10).size(), 10u);
  }
}

TEST_P(Upgrade, HappensOnceForEachDirection) {
  Puppet puppet(*lab_, GetParam(), PSP_STATE_NONE);
  const auto early = puppet.tx_assoc();
  ASSERT_FALSE(early);
  EXPECT_EQ(early.error().sys_errno, EINVAL);
  puppet.rx_assoc();
  const auto again_rx = lab_->client(From::kA).rx_assoc(puppet.fd(), kVersion);
  ASSERT_FALSE(again_rx);
  EXPECT_EQ(again_rx.error().sys_errno, EBUSY);
  ASSERT_TRUE(puppet.tx_assoc());
  const auto again_tx = puppet.tx_assoc();
  ASSERT_FALSE(again_tx);
  EXPECT_EQ(again_tx.error().sys_errno, EBUSY);
}

INSTANTIATE_TEST_SUITE_P(Families, Upgrade,
                         testing::Values(Kind::kIpv4, Kind::kIpv6, Kind::kIpv4Mapped), kind_param);

}  // namespace
}  // namespace psp::lab
