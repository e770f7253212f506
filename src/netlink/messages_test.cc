// SPDX-License-Identifier: Apache-2.0
//
// Every message: what is read is what was written, attributes stand in the order that the
// specification gives, and what a newer or a broken sender adds does no harm. The order is that of
// the tables of spec.hh, which are made from spec/ on another way. Writer and reader are made from
// one list and could be wrong together: octets that the kernel would know are in server_test.cc.
// What needs CAP_NET_ADMIN is written out here a second time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "netlink/codec.hh"
#include "netlink/messages/nlctrl.hh"
#include "netlink/messages/psp.hh"
#include "netlink/messages/softpsp.hh"
#include "netlink/privilege.hh"
#include "netlink/spec.hh"
#include <psp/netlink/uapi.h>

namespace psp::netlink {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;

using Octets = std::vector<std::uint8_t>;

template <typename Message>
Octets written(const Message& message) {
  Writer writer;
  writer.begin(GENL_MIN_ID, 0, 0, 0, 0, 0);
  put(writer, message);
  EXPECT_TRUE(writer.end());
  const auto attributes =
      message_attributes(reinterpret_cast<const nlmsghdr*>(writer.octets().data()));
  return {attributes.begin(), attributes.end()};
}

template <typename Message>
Message back(const Message& message) {
  return read<Message>(written(message));
}

std::vector<std::uint16_t> types(const Octets& attributes) {
  std::vector<std::uint16_t> all;
  for_each_attribute(attributes,
                     [&](const nlattr* attribute) { all.push_back(mnl_attr_get_type(attribute)); });
  return all;
}

Octets octets(const crypto::SaKey& key) { return {key.span().begin(), key.span().end()}; }

const std::uint8_t kKey[16] = {1, 2, 3};

DeviceInfo device() {
  DeviceInfo info;
  info.id = 0x8001;
  info.ifindex = 7;
  info.versions_cap = {0xf};
  info.versions_ena = {0x5};
  info.associated = {{.ifindex = 8, .nsid = -1}, {.ifindex = 9, .nsid = 4}};
  return info;
}

TEST(Messages, DeviceComesBack) {
  const DeviceInfo info = back(device());
  EXPECT_EQ(info.id, 0x8001u);
  EXPECT_EQ(info.ifindex, 7u);
  EXPECT_EQ(info.versions_cap.bits, 0xfu);
  EXPECT_EQ(info.versions_ena.bits, 0x5u);
  EXPECT_FALSE(info.by_association);
  ASSERT_EQ(info.associated.size(), 2u);
  EXPECT_EQ(info.associated[0].nsid, -1);
  EXPECT_EQ(info.associated[1].ifindex, 9u);
  EXPECT_EQ(info.associated[1].nsid, 4);
}

TEST(Messages, AnAssociatedNamespaceIsToldNoIfindex) {
  DeviceInfo info = device();
  info.ifindex = 0;
  info.by_association = true;
  info.associated.clear();
  EXPECT_THAT(types(written(info)),
              ElementsAre(PSPNL_DEV_ID, PSPNL_DEV_PSP_VERSIONS_CAP, PSPNL_DEV_PSP_VERSIONS_ENA,
                          PSPNL_DEV_BY_ASSOCIATION));
  EXPECT_TRUE(back(info).by_association);
}

TEST(Messages, StandInTheOrderOfTheSpecification) {
  DeviceInfo info = device();
  info.by_association = true;
  info.associated.resize(1);
  EXPECT_THAT(types(written(info)),
              ElementsAreArray(spec::find_operation("dev-get")->do_reply.attributes));
  EXPECT_THAT(types(written(StatsInfo{})),
              ElementsAreArray(spec::find_operation("get-stats")->do_reply.attributes));
  EXPECT_THAT(types(written(RxAssocInfo{})),
              ElementsAreArray(spec::find_operation("rx-assoc")->do_reply.attributes));
  EXPECT_THAT(types(written(device::AssocRequest{
                  .fd = 3, .dev_id = 1, .version = Version::kAesGcm128, .tx_key = {{}}})),
              ElementsAreArray(spec::find_operation("tx-assoc")->do_request.attributes));
  EXPECT_THAT(types(written(DeviceRequest{.id = 1, .versions_ena = {{1}}})),
              ElementsAreArray(spec::find_operation("dev-set")->do_request.attributes));
  EXPECT_THAT(types(written(DeviceRequest{.id = 1, .ifindex = 2, .nsid = 3})),
              ElementsAreArray(spec::find_operation("dev-assoc")->do_request.attributes));
}

TEST(Messages, StatisticsTakeEightOctetsWhereFourAreNotEnough) {
  const StatsInfo sent{.dev_id = 3, .stale_events = 1, .rx_bytes = 1ull << 40, .tx_error = 2};
  const StatsInfo info = back(sent);
  EXPECT_EQ(info.dev_id, 3u);
  EXPECT_EQ(info.stale_events, 1u);
  EXPECT_EQ(info.rx_bytes, 1ull << 40);
  EXPECT_EQ(info.tx_error, 2u);
  EXPECT_EQ(written(sent).size(), written(StatsInfo{}).size() + 4);
}

TEST(Messages, AnAssocRequestHasWhatItIsGiven) {
  EXPECT_THAT(written(device::AssocRequest{}), IsEmpty());
  const Octets sent = written(device::AssocRequest{
      .fd = -1,
      .dev_id = {},
      .version = Version::kAesGmac256,
      .tx_key = device::AssocRequest::Keys{.spi = {}, .key = kKey},
  });
  const auto request = read<device::AssocRequest>(sent);
  EXPECT_EQ(request.fd, -1);
  EXPECT_EQ(request.dev_id, std::nullopt);
  EXPECT_EQ(request.version, Version::kAesGmac256);
  ASSERT_TRUE(request.tx_key);
  EXPECT_EQ(request.tx_key->spi, std::nullopt);
  EXPECT_THAT(*request.tx_key->key, ElementsAreArray(kKey));
}

TEST(Messages, AKeyComesBack) {
  RxAssocInfo sent{.dev_id = 2, .rx = {.spi = {0x80000001}, .key = {}}};
  sent.rx.key.assign(kKey);
  const RxAssocInfo info = back(sent);
  EXPECT_EQ(info.dev_id, 2u);
  EXPECT_EQ(info.rx.spi.value, 0x80000001u);
  EXPECT_THAT(octets(info.rx.key), ElementsAreArray(kKey));

  CapturedKey captured{.version = Version::kAesGcm256, .spi = {7}, .key = {}};
  captured.key.assign(kKey);
  const CapturedKey found = back(captured);
  EXPECT_EQ(found.version, Version::kAesGcm256);
  EXPECT_EQ(found.spi.value, 7u);
  EXPECT_THAT(octets(found.key), ElementsAreArray(kKey));
}

TEST(Messages, AnAssociationComesBack) {
  AssocInfo sent;
  sent.cookie = 1ull << 33;
  sent.rx = {.spi = 5, .rotation = 0, .dev_id = 1, .generation = 127, .version = 2};
  sent.ifname = "eth0";
  sent.family = 6;
  sent.local_address = "fd00::1";
  sent.peer_address = "fd00::2";
  sent.local_port = 65535;
  sent.peer_port = 1;
  sent.state = 3;
  sent.tcp_state = "established";
  sent.stale = true;
  sent.rx_packets = 11;
  sent.rx_bytes = 12;
  sent.tx_packets = 13;
  sent.tx_bytes = 14;
  sent.rx_drops = 15;
  AssocInfo info = back(sent);
  EXPECT_EQ(info.tx_spi, std::nullopt);
  sent.tx_spi = Spi{6};
  info = back(sent);
  const auto all = [](const AssocInfo& of) {
    return std::tuple(of.cookie, of.rx.dev_id, of.ifname, of.family, of.local_address,
                      of.peer_address, of.local_port, of.peer_port, of.state, of.tcp_state,
                      of.rx.version, of.rx.generation, of.stale, of.rx.spi, of.tx_spi->value,
                      of.rx_packets, of.rx_bytes, of.tx_packets, of.tx_bytes, of.rx_drops);
  };
  EXPECT_EQ(all(info), all(sent));
}

TEST(Messages, FactsAboutTheDaemonComeBack) {
  const DaemonInfo info = back(DaemonInfo{.version = "1.2",
                                          .crypto_backend = "openssl",
                                          .pid = 9,
                                          .instance = 1ull << 63,
                                          .devices = {}});
  EXPECT_EQ(info.version, "1.2");
  EXPECT_EQ(info.crypto_backend, "openssl");
  EXPECT_EQ(info.pid, 9u);
  EXPECT_EQ(info.instance, 1ull << 63);

  DaemonInfo::Device sent;
  sent.id = 1;
  sent.ifname = "eth0";
  sent.tap = "psp0";
  sent.mtu = 1500;
  sent.generation = 2;
  EXPECT_EQ(back(sent).trouble, "");
  EXPECT_EQ(types(written(sent)).back(), SOFTPSP_INFO_REPAIRS);
  sent.spi_remaining = 1ull << 32;
  sent.drops = {{"bad-icv", 1}, {"no-key", 1ull << 33}};
  sent.repairs = 3;
  sent.refused = 4;
  sent.trouble = "the qdisc is gone";
  const DaemonInfo::Device device = back(sent);
  EXPECT_EQ(device.id, 1u);
  EXPECT_EQ(device.ifname, "eth0");
  EXPECT_EQ(device.tap, "psp0");
  EXPECT_EQ(device.mtu, 1500u);
  EXPECT_EQ(device.generation, 2u);
  EXPECT_EQ(device.spi_remaining, 1ull << 32);
  EXPECT_EQ(device.drops, sent.drops);
  EXPECT_EQ(device.repairs, 3u);
  EXPECT_EQ(device.refused, 4u);
  EXPECT_EQ(device.trouble, sent.trouble);
}

TEST(Messages, AKeptPacketComesBack) {
  KeptPacket sent{.dev_id = 1, .number = 2, .nanoseconds = 1ull << 60, .reason = {}, .octets = {}};
  EXPECT_EQ(back(sent).reason, std::nullopt);
  EXPECT_FALSE(back(sent).transmit);
  sent.transmit = true;
  sent.reason = static_cast<Drop>(1);
  sent.length = 1400;
  sent.octets = {0x45, 0, 1};
  const KeptPacket packet = back(sent);
  EXPECT_EQ(packet.dev_id, 1u);
  EXPECT_EQ(packet.number, 2u);
  EXPECT_EQ(packet.nanoseconds, 1ull << 60);
  EXPECT_TRUE(packet.transmit);
  EXPECT_EQ(packet.reason, static_cast<Drop>(1));
  EXPECT_EQ(packet.length, 1400u);
  EXPECT_EQ(packet.octets, sent.octets);
}

TEST(Messages, AFamilyComesBack) {
  const FamilyInfo info = back(FamilyInfo{.name = "psp",
                                          .id = 0x5053,
                                          .version = 1,
                                          .operations = {{1, 0xe}, {4, 0xb}},
                                          .groups = {{.id = 0x50530001, .name = "mgmt"}}});
  EXPECT_EQ(info.name, "psp");
  EXPECT_EQ(info.id, 0x5053);
  EXPECT_EQ(info.version, 1u);
  ASSERT_EQ(info.operations.size(), 2u);
  EXPECT_EQ(info.operations[1].cmd, 4u);
  EXPECT_EQ(info.operations[1].flags, 0xbu);
  ASSERT_EQ(info.groups.size(), 1u);
  EXPECT_EQ(info.groups[0].id, 0x50530001u);
  EXPECT_EQ(info.groups[0].name, "mgmt");
}

TEST(Messages, UnknownAttributesAreSkippedAndWrongLengthsReadAsZero) {
  Writer writer;
  writer.begin(GENL_MIN_ID, 0, 0, 0, 0, 0);
  writer.put_u32(99, 1);
  writer.put_u16(PSPNL_STATS_DEV_ID, 1);
  writer.put_octets(PSPNL_STATS_RX_BYTES, kKey);
  writer.put_u32(PSPNL_STATS_TX_ERROR, 1);
  writer.put_u32(PSPNL_STATS_TX_ERROR, 2);
  ASSERT_TRUE(writer.end());
  const auto info = read<StatsInfo>(
      message_attributes(reinterpret_cast<const nlmsghdr*>(writer.octets().data())));
  EXPECT_EQ(info.dev_id, 0u);
  EXPECT_EQ(info.rx_bytes, 0u);
  EXPECT_EQ(info.tx_error, 2u);  // the last counts
}

TEST(Messages, NotificationsHaveTheirCommands) {
  using Kind = Notification::Kind;
  EXPECT_EQ(command_of(Kind::kDevDel), PSPNL_CMD_DEV_DEL_NTF);
  for (const Kind kind : {Kind::kDevAdd, Kind::kDevDel, Kind::kDevChange, Kind::kKeyRotate})
    EXPECT_EQ(kind_of(command_of(kind)), kind);
  EXPECT_EQ(kind_of(PSPNL_CMD_DEV_GET), std::nullopt);
}

TEST(Messages, PrivilegesAreThoseOfTheFamilies) {
  const auto all = [](std::uint16_t family) {
    std::vector<int> commands;
    for (int cmd = 0; cmd < 256; ++cmd)
      if (may_need_net_admin(family, static_cast<std::uint8_t>(cmd))) commands.push_back(cmd);
    return commands;
  };
  EXPECT_THAT(all(SOFTPSP_ID_PSP), ElementsAre(PSPNL_CMD_DEV_SET, PSPNL_CMD_KEY_ROTATE,
                                               PSPNL_CMD_DEV_ASSOC, PSPNL_CMD_DEV_DISASSOC));
  EXPECT_THAT(all(SOFTPSP_ID_SOFTPSP), ElementsAre(SOFTPSP_CMD_KEY_GET, SOFTPSP_CMD_PACKET_GET));
  EXPECT_THAT(all(GENL_ID_CTRL), IsEmpty());
  EXPECT_THAT(all(1), IsEmpty());
}

}  // namespace
}  // namespace psp::netlink
