// SPDX-License-Identifier: Apache-2.0
//
// Device keys and versions under connections that use them: one rotation is not felt, two end what
// was received under the first key, and disabled versions end receive but not transmit.
//
// That is the kernel's rule for PSP: a device has two keys, and nobody tells sockets of the older
// one. Old packets must count as stale, not as an attack (rx-auth-fail), or operators would look
// for one. Where no version is enabled PSP packets are plain UDP, as with a NIC.
#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "puppet.hh"

namespace psp::lab {
namespace {

class DeviceKeys : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    lab_.emplace();
    lab_->start(From::kA);
    lab_->start(From::kB);
  }
  std::uint32_t device(From side) { return lab_->client(side).devices().value().at(0).id; }
  static void expect_carried(int from, int to) {
    const Octets data = random_octets(5000);
    send_all(from, data);
    EXPECT_EQ(receive(to, data.size()), data);
  }
  static int unacknowledged(int fd) {
    int octets = 0;
    ::ioctl(fd, SIOCOUTQ, &octets);
    return octets;
  }

  std::optional<Lab> lab_;
};

TEST_P(DeviceKeys, OneRotationIsNotFeltAndNewConnectionsGetTheNewKey) {
  auto connection = lab_->connect(GetParam());
  const Secured keys = secure(*lab_, connection);
  expect_carried(connection.b.get(), connection.a.get());
  ASSERT_TRUE(lab_->client(From::kA).key_rotate(device(From::kA)));
  expect_carried(connection.b.get(), connection.a.get());
  expect_carried(connection.a.get(), connection.b.get());
  EXPECT_FALSE(lab_->association(From::kA, connection.a.get())->stale);

  auto later = lab_->connect(GetParam());
  const Secured later_keys = secure(*lab_, later);
  EXPECT_NE(later_keys.a_rx.spi.phase(), keys.a_rx.spi.phase());
  expect_carried(later.b.get(), later.a.get());
  EXPECT_EQ(lab_->stats(From::kA).key_rotations, 1u);
  EXPECT_EQ(lab_->stats(From::kA).stale_events, 0u);
}

TEST_P(DeviceKeys, TwoRotationsEndReceiveUnderTheOldKeyOnly) {
  auto connection = lab_->connect(GetParam());
  secure(*lab_, connection);
  expect_carried(connection.b.get(), connection.a.get());
  Client client = lab_->client(From::kA);
  ASSERT_TRUE(client.key_rotate(device(From::kA)));
  ASSERT_TRUE(client.key_rotate(device(From::kA)));
  EXPECT_EQ(lab_->stats(From::kA).stale_events, 1u);
  EXPECT_TRUE(lab_->association(From::kA, connection.a.get())->stale);

  const auto before = lab_->stats(From::kA);
  const Octets lost = random_octets(3000);
  send_all(connection.b.get(), lost);
  EXPECT_TRUE(eventually([&] { return lab_->drops(From::kA, "STALE_KEY") > 2; }));
  EXPECT_EQ(lab_->stats(From::kA).rx_auth_fail, before.rx_auth_fail) << "nobody attacks";
  EXPECT_EQ(pending(connection.a.get()), Octets());
  EXPECT_EQ(unacknowledged(connection.b.get()), 3000);
  EXPECT_EQ(lab_->stats(From::kA).rx_packets, before.rx_packets);

  auto later = lab_->connect(GetParam());
  secure(*lab_, later);
  expect_carried(later.b.get(), later.a.get());
  expect_carried(later.a.get(), later.b.get());
}

TEST_P(DeviceKeys, APeerThatKnowsAnEarlierDaemonIsNotTakenForAnAttack) {
  auto connection = lab_->connect(GetParam());
  secure(*lab_, connection);
  expect_carried(connection.b.get(), connection.a.get());
  lab_->kill(From::kA);
  lab_->start(From::kA);
  auto later = lab_->connect(GetParam());  // its SPI could be the same number
  secure(*lab_, later);
  send_all(connection.b.get(), random_octets(3000));
  EXPECT_TRUE(eventually([&] { return lab_->drops(From::kA, "UNKNOWN_KEY") > 2; }));
  const auto now = lab_->stats(From::kA);
  EXPECT_EQ(now.rx_auth_fail, 0u);
  EXPECT_GT(now.rx_bad, 2u);
  expect_carried(later.b.get(), later.a.get());
}

TEST_P(DeviceKeys, DisabledVersionsEndReceiveWhileTransmitGoesOn) {
  auto connection = lab_->connect(GetParam());
  secure(*lab_, connection);
  expect_carried(connection.b.get(), connection.a.get());
  Client client = lab_->client(From::kA);
  ASSERT_TRUE(client.set_versions(device(From::kA), {}));
  const Octets from_a = random_octets(3000), from_b = random_octets(3000);
  send_all(connection.a.get(), from_a);
  EXPECT_EQ(receive(connection.b.get(), 3000), from_a);
  send_all(connection.b.get(), from_b);
  EXPECT_EQ(receive(connection.a.get(), 1, 300ms), Octets());
  EXPECT_EQ(unacknowledged(connection.b.get()), 3000);
  ASSERT_TRUE(client.set_versions(device(From::kA), VersionSet::all()));
  EXPECT_EQ(receive(connection.a.get(), 3000), from_b);
}

INSTANTIATE_TEST_SUITE_P(Families, DeviceKeys, testing::Values(Kind::kIpv4, Kind::kIpv6),
                         kind_param);

class Disabled : public PuppetTest {};

TEST_P(Disabled, PspPacketsArePlainUdpWhereNoVersionIsEnabled) {
  Puppet puppet(*lab_, GetParam(), PSP_STATE_RX);
  Client client = lab_->client(From::kA);
  const std::uint32_t id = client.devices().value().at(0).id;
  UniqueFd udp;
  {
    const InNetns inside(lab_->ns(From::kA));
    udp.reset(::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_in6 any{};
    any.sin6_family = AF_INET6;
    any.sin6_port = htons(kUdpPort);
    const int on = 1;  // PSP has no UDP checksum
    ::setsockopt(udp.get(), IPPROTO_UDP, UDP_NO_CHECK6_RX, &on, sizeof on);
    ASSERT_EQ(::bind(udp.get(), reinterpret_cast<const sockaddr*>(&any), sizeof any), 0);
  }
  const Segment data = {.seq = puppet.seq(), .ack = puppet.ack(), .payload = random_octets(50)};
  const Octets packet =
      seal(clear_packet(puppet.flow(), From::kB, data), with(kVersion, puppet.rx()));
  ASSERT_TRUE(client.set_versions(id, {}));
  puppet.send_packet(packet);
  const std::size_t headers = (puppet.flow().family == 4 ? kIpv4Header : kIpv6Header) + kUdpHeader;
  EXPECT_EQ(receive(udp.get(), packet.size() - headers),
            Octets(packet.begin() + static_cast<std::ptrdiff_t>(headers), packet.end()));
  EXPECT_EQ(pending(puppet.fd()), Octets());
  ASSERT_TRUE(client.set_versions(id, VersionSet::all()));
  puppet.send_packet(packet);
  EXPECT_EQ(receive(puppet.fd(), 50), data.payload);
  EXPECT_EQ(pending(udp.get()), Octets());
}

INSTANTIATE_TEST_SUITE_P(Families, Disabled, testing::Values(Kind::kIpv4, Kind::kIpv6), kind_param);

}  // namespace
}  // namespace psp::lab
