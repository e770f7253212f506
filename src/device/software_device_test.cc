// SPDX-License-Identifier: Apache-2.0
//
// One device, several network namespaces: whose keys are whose. What is sealed for one does not
// open in another, a rotation is one for all, and what a namespace has counted still counts when it
// has gone.
#include "device/software_device.hh"

#include <gtest/gtest.h>

#include "driver_test_support.hh"

namespace psp::device {
namespace {

using test::Octets;

constexpr std::uint64_t kHost = 1, kPod = 2, kLater = 3;
constexpr Version kVersion = Version::kAesGcm128;

class SoftwareDeviceTest : public testing::Test {
 protected:
  SoftwareDriverOptions options() {
    SoftwareDriverOptions o;
    o.backend = &backend;
    o.ivs = &ivs;
    return o;
  }
  void SetUp() override {
    ASSERT_TRUE(device.set_config({}, {VersionSet::all()}));
    device.join(kHost);
    device.join(kPod);
  }
  Octets sealed_for(std::uint64_t netns) {
    const RxKey rx = device.rx_spi_alloc(netns, kVersion).value();
    return test::seal(backend, rx.spi, rx.key.span(), {});
  }
  // open is what a worker of that namespace makes of a datagram.
  std::expected<RxMeta, Drop> open(std::uint64_t netns, const Octets& datagram) {
    Octets out(datagram.size());
    return device.join(netns).make_engine()->open(datagram, out.data());
  }
  std::expected<TxSession, Drop> tx_begin(std::uint64_t netns, std::uint32_t handle) {
    return device.join(netns).make_engine()->tx_begin(handle);
  }

  test::CountingBackend backend{crypto::openssl_backend()};
  IvAllocator ivs{[] { return std::uint64_t{1}; }};
  SoftwareDevice device{options()};
};

TEST_F(SoftwareDeviceTest, APacketForOneNamespaceDoesNotOpenInAnother) {
  const Octets hosts = sealed_for(kHost), pods = sealed_for(kPod);
  EXPECT_TRUE(open(kHost, hosts));
  EXPECT_TRUE(open(kPod, pods));
  EXPECT_EQ(open(kPod, hosts).error(), Drop::UNKNOWN_KEY);
  EXPECT_EQ(open(kHost, pods).error(), Drop::UNKNOWN_KEY);
}

TEST_F(SoftwareDeviceTest, AHandleOfOneNamespaceFindsNoKeyOfItInAnother) {
  const Octets host_key(16, 1), pod_key(16, 2);
  const auto hosts = device.tx_key_add(kHost, kVersion, Spi{10}, host_key).value();
  EXPECT_EQ(tx_begin(kPod, hosts).error(), Drop::TX_NO_ASSOC);
  const auto pods = device.tx_key_add(kPod, kVersion, Spi{20}, pod_key).value();
  EXPECT_EQ(hosts, pods) << "the numbers are the same, and so this test says something";
  EXPECT_EQ(tx_begin(kHost, hosts)->spi, Spi{10});
  EXPECT_EQ(tx_begin(kPod, pods)->spi, Spi{20});
  device.set_clear_boundary(kPod, pods, 7);
  EXPECT_FALSE(tx_begin(kHost, hosts)->has_clear_boundary);
  EXPECT_TRUE(tx_begin(kPod, pods)->has_clear_boundary);
  device.tx_key_del(kPod, pods);
  EXPECT_TRUE(tx_begin(kHost, hosts));
  EXPECT_FALSE(tx_begin(kPod, pods));
}

TEST_F(SoftwareDeviceTest, RotatesAllNamespacesTogether) {
  const Octets hosts = sealed_for(kHost), pods = sealed_for(kPod);
  EXPECT_EQ(device.key_rotate(0x85), 5);
  for (const std::uint64_t netns : {kHost, kPod}) {
    const RxKey rx = device.rx_spi_alloc(netns, kVersion).value();
    EXPECT_EQ(rx.spi.phase(), 1u);
    EXPECT_EQ(open(netns, test::seal(backend, rx.spi, rx.key.span(), {}))->generation, 5);
  }
  EXPECT_TRUE(open(kHost, hosts));
  EXPECT_TRUE(open(kPod, pods));
  ASSERT_TRUE(device.key_rotate(6));
  EXPECT_FALSE(open(kHost, hosts));
  EXPECT_FALSE(open(kPod, pods));
}

TEST_F(SoftwareDeviceTest, ANamespaceThatComesLaterIsInStep) {
  ASSERT_TRUE(device.key_rotate(1));
  ASSERT_TRUE(device.set_config({}, {VersionSet{1}}));
  device.join(kLater);
  const Octets first = sealed_for(kLater);
  EXPECT_EQ(open(kLater, first)->generation, 1);
  const RxKey of_host = device.rx_spi_alloc(kHost, kVersion).value();
  EXPECT_EQ(device.rx_spi_alloc(kLater, kVersion)->spi.phase(), of_host.spi.phase());
  EXPECT_NE(Octets(of_host.key.data(), of_host.key.data() + of_host.key.size()), [&] {
    const RxKey rx = device.rx_spi_alloc(kLater, kVersion).value();
    return Octets(rx.key.data(), rx.key.data() + rx.key.size());
  }());
  const RxKey off = device.rx_spi_alloc(kLater, Version::kAesGcm256).value();
  EXPECT_EQ(
      open(kLater, test::seal(backend, off.spi, off.key.span(), {Version::kAesGcm256})).error(),
      Drop::VERSION_DISABLED);
  // Of the key before its time nothing was ever handed out.
  Octets early = first;
  early[4] ^= 0x80;  // the phase of the SPI
  EXPECT_EQ(open(kLater, early).error(), Drop::UNKNOWN_KEY);
  ASSERT_TRUE(device.key_rotate(2));
  EXPECT_TRUE(open(kLater, first)) << "one rotation old";
  ASSERT_TRUE(device.key_rotate(3));
  EXPECT_FALSE(open(kLater, first));
}

TEST_F(SoftwareDeviceTest, ANamespaceThatLeavesTakesItsKeysAndLeavesItsCounts) {
  const int before = backend.device_keys;
  device.join(kLater);
  EXPECT_EQ(backend.device_keys, before + 2);
  const Octets datagram = sealed_for(kLater);
  EXPECT_TRUE(open(kLater, datagram));
  EXPECT_EQ(tx_begin(kLater, 99).error(), Drop::TX_NO_ASSOC);
  const DriverStats stats = device.get_stats().value();
  const auto drops = device.drops();
  EXPECT_EQ(stats.rx_packets, 1u);
  EXPECT_EQ(stats.tx_error, 1u);
  device.leave(kLater);
  device.leave(kLater);
  EXPECT_EQ(backend.device_keys, before);
  EXPECT_EQ(device.get_stats().value(), stats);
  EXPECT_EQ(device.drops(), drops);
  EXPECT_EQ(open(kLater, datagram).error(), Drop::UNKNOWN_KEY) << "it came back with other keys";
}

TEST_F(SoftwareDeviceTest, GivesNothingToNamespacesWithoutAPart) {
  EXPECT_EQ(device.rx_spi_alloc(kLater, kVersion).error().sys_errno, EOPNOTSUPP);
  EXPECT_EQ(device.tx_key_add(kLater, kVersion, Spi{1}, Octets(16)).error().sys_errno, EOPNOTSUPP);
  device.tx_key_del(kLater, 1u << 24);
  device.set_clear_boundary(kLater, 1u << 24, 1);
  EXPECT_FALSE(device.has(kLater));
}

TEST_F(SoftwareDeviceTest, ExportsAKeyFromItsNamespaceOnly) {
  const Octets datagram = sealed_for(kPod);
  EXPECT_TRUE(device.rx_key_of(kPod, datagram));
  EXPECT_FALSE(device.rx_key_of(kHost, datagram));
  EXPECT_FALSE(device.rx_key_of(kLater, datagram));
  const RxKey peer = device.rx_spi_alloc(kHost, kVersion).value();
  const Octets sent = test::seal(backend, peer.spi, peer.key.span(), {});
  const auto handle = device.tx_key_add(kPod, kVersion, peer.spi, peer.key.span()).value();
  EXPECT_TRUE(device.tx_key_of(kPod, handle, sent));
  EXPECT_FALSE(device.tx_key_of(kHost, handle, sent));
  EXPECT_FALSE(device.tx_key_of(kLater, handle, sent));
}

TEST_F(SoftwareDeviceTest, OneNamespaceCannotUseUpTheSpisOfAnother) {
  SoftwareDriverOptions o = options();
  o.spis_of_a_key = 2;
  SoftwareDevice small(o);
  small.join(kHost);
  small.join(kPod);
  for (int i = 0; i < 2; i++) EXPECT_TRUE(small.rx_spi_alloc(kPod, kVersion));
  EXPECT_EQ(small.rx_spi_alloc(kPod, kVersion).error().sys_errno, ENOSPC);
  EXPECT_EQ(small.spi_remaining(), 0u) << "the least";
  EXPECT_TRUE(small.rx_spi_alloc(kHost, kVersion));
}

TEST_F(SoftwareDeviceTest, NumbersThePacketsInAllLogsInOrder) {
  const Octets packet(40, 1);
  for (const std::uint64_t netns : {kPod, kHost, kPod})
    device.join(netns).make_engine()->log_packet(PacketPath::kReceive, Drop::AUTH_FAIL, 40, packet);
  const auto packets = device.packets();
  ASSERT_EQ(packets.size(), 3u);
  for (std::size_t i = 0; i < packets.size(); i++) EXPECT_EQ(packets[i].number, i + 1);
}

TEST_F(SoftwareDeviceTest, NoNamespaceFillsTheLogOfAnother) {
  const Octets packet(40, 1);
  for (std::size_t i = 0; i < 2 * PacketLog::kPackets; i++)
    device.join(kPod).make_engine()->log_packet(PacketPath::kReceive, Drop::AUTH_FAIL, 40, packet);
  device.join(kHost).make_engine()->log_packet(PacketPath::kReceive, Drop::BAD_SPI, 40, packet);
  EXPECT_EQ(device.packets().back().reason, Drop::BAD_SPI);
}

TEST_F(SoftwareDeviceTest, NoIvIsGivenInTwoNamespaces) {
  const std::uint64_t first = device.join(kHost).make_engine()->reserve_ivs(10);
  EXPECT_GE(device.join(kPod).make_engine()->reserve_ivs(10), first + 10);
}

}  // namespace
}  // namespace psp::device
