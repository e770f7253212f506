// SPDX-License-Identifier: Apache-2.0
//
// Server: golden octets of every message, the kernel's error table row by row, bad input. The Core
// is the real one, its sockets and driver are models.
#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <utility>

#include <psp/netlink/server.hh>

#include "test_support.hh"

namespace psp::netlink {
namespace {

using testing::hex;
using ::testing::IsEmpty;
using testing::message;
using testing::unhex;
using testing::World;

constexpr std::uint16_t kDump = NLM_F_REQUEST | NLM_F_DUMP;

std::vector<std::uint8_t> psp_request(std::uint8_t cmd, const std::function<void(Writer&)>& fill,
                                      std::uint16_t flags = NLM_F_REQUEST) {
  return message(kPspFamilyId, cmd, fill, flags);
}
std::vector<std::uint8_t> psp_request(std::uint8_t cmd, std::uint16_t flags = NLM_F_REQUEST) {
  return message(kPspFamilyId, cmd, flags);
}
std::vector<std::uint8_t> with_id(std::uint8_t cmd, std::uint32_t id,
                                  std::uint16_t flags = NLM_F_REQUEST) {
  return psp_request(
      cmd, [id](Writer& writer) { writer.put_u32(PSPNL_DEV_ID, id); }, flags);
}

// Assoc is an rx-assoc or tx-assoc to be spoilt.
struct Assoc {
  std::optional<std::uint32_t> dev_id{};
  std::optional<std::uint32_t> version = 0;
  bool nest = true;
  std::optional<std::uint32_t> spi = 0x80000005;
  std::optional<std::size_t> key_octets = 16;
  std::optional<std::uint32_t> sock_fd = 3;

  std::vector<std::uint8_t> message(std::uint8_t cmd, std::uint16_t flags = NLM_F_REQUEST) const {
    return psp_request(
        cmd,
        [&](Writer& writer) {
          if (dev_id) writer.put_u32(PSPNL_ASSOC_DEV_ID, *dev_id);
          if (version) writer.put_u32(PSPNL_ASSOC_VERSION, *version);
          if (cmd == PSPNL_CMD_TX_ASSOC && nest) {
            nlattr* key = writer.nest(PSPNL_ASSOC_TX_KEY);
            if (spi) writer.put_u32(PSPNL_KEYS_SPI, *spi);
            if (key_octets)
              writer.put_octets(PSPNL_KEYS_KEY, std::vector<std::uint8_t>(*key_octets, 0xaa));
            writer.end_nest(key);
          }
          if (sock_fd) writer.put_u32(PSPNL_ASSOC_SOCK_FD, *sock_fd);
        },
        flags);
  }
};

// Refusal is a NLMSG_ERROR taken apart.
struct Refusal {
  int error = 1;  // none came
  std::string text;
  std::optional<std::uint32_t> bad_offset, missing_type, missing_nest;
  bool quoted = false;  // the whole request
};

Refusal refusal(const std::vector<Datagram>& answers, const std::vector<std::uint8_t>& request) {
  Refusal refusal;
  if (answers.size() != 1) return refusal;
  const auto* header = reinterpret_cast<const nlmsghdr*>(answers[0].data());
  if (header->nlmsg_type != NLMSG_ERROR || header->nlmsg_len != answers[0].size()) return refusal;
  std::memcpy(&refusal.error, answers[0].data() + 16, 4);
  std::size_t used = 20 + request.size();
  refusal.quoted = answers[0].size() >= used &&
                   std::equal(request.begin(), request.end(), answers[0].begin() + 20);
  if (!refusal.quoted) return refusal;
  EXPECT_EQ(header->nlmsg_flags, answers[0].size() > used ? NLM_F_ACK_TLVS : 0);
  for_each_attribute(std::span(answers[0]).subspan(used), [&](const nlattr* attribute) {
    switch (mnl_attr_get_type(attribute)) {
      case NLMSGERR_ATTR_MSG:
        refusal.text = get_string(attribute);
        break;
      case NLMSGERR_ATTR_OFFS:
        refusal.bad_offset = get_u32(attribute);
        break;
      case NLMSGERR_ATTR_MISS_TYPE:
        refusal.missing_type = get_u32(attribute);
        break;
      case NLMSGERR_ATTR_MISS_NEST:
        refusal.missing_nest = get_u32(attribute);
        break;
      default:
        break;
    }
  });
  return refusal;
}

// ---- golden octets ----------------------------------------------------------------------------

TEST(Server, DevGetRepliesWithTheDeviceSet) {
  World world;
  const auto out = world.ask(with_id(PSPNL_CMD_DEV_GET, 1));
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(hex(out[0]),
            "34000000535000000900000000000000"  // nlmsghdr: 52 octets, psp, flags 0, seq 9
            "01010000"                          // dev-get, version 1
            "0800010001000000"                  // id 1
            "0800020007000000"                  // ifindex 7
            "080003000f000000"                  // versions-cap
            "0800040000000000");                // versions-ena
}

TEST(Server, AckFollowsTheReplyIfAskedFor) {
  World world;
  const auto out = world.ask(with_id(PSPNL_CMD_DEV_GET, 1, NLM_F_REQUEST | NLM_F_ACK));
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(hex(out[1]),
            "24000000020000010900000000000000"  // NLMSG_ERROR, NLM_F_CAPPED
            "00000000"
            "1c000000535005000900000000000000");  // the request's header
}

TEST(Server, DumpEndsWithDoneInTheSameDatagram) {
  World world;
  testing::FakeDriver second;
  ASSERT_TRUE(world.core.add_device({0, 9}, "eth1", {0x3}, second));
  const auto out = world.ask(psp_request(PSPNL_CMD_DEV_GET, kDump | NLM_F_ACK));
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(hex(out[0]),
            "34000000535000000900000000000000"
            "01010000"
            "0800010001000000"
            "0800020007000000"
            "080003000f000000"
            "0800040000000000"
            "34000000535000000900000000000000"
            "01010000"
            "0800010002000000"
            "0800020009000000"
            "0800030003000000"
            "0800040000000000"
            "14000000030002000900000000000000"  // NLMSG_DONE, NLM_F_MULTI
            "00000000");
}

TEST(Server, DevSetNotifiesThenRepliesWithNothing) {
  World world;
  const auto request = unhex(
      "24000000535001000900000000000000"
      "04010000"
      "0800010001000000"
      "0800040003000000");
  const auto out = world.ask(request);
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(hex(out[0]), "1400000053500000090000000000000004010000");
  ASSERT_EQ(world.notifications.size(), 1u);
  EXPECT_EQ(world.notifications[0].group, 1u);  // mgmt
  EXPECT_EQ(hex(world.notifications[0].datagram),
            "34000000535000000000000000000000"
            "05010000"
            "0800010001000000"
            "0800020007000000"
            "080003000f000000"
            "0800040003000000");
  world.ask(request);
  EXPECT_EQ(world.notifications.size(), 2u) << "also when nothing changed";
}

TEST(Server, KeyRotateNotifiesUseAndRepliesWithTheId) {
  World world;
  const auto out = world.ask(with_id(PSPNL_CMD_KEY_ROTATE, 1));
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(hex(out[0]), "1c000000535000000900000000000000060100000800010001000000");
  ASSERT_EQ(world.notifications.size(), 1u);
  EXPECT_EQ(world.notifications[0].group, 2u);  // use
  EXPECT_EQ(hex(world.notifications[0].datagram),
            "1c000000535000000000000000000000070100000800010001000000");
}

TEST(Server, DevicesThatComeAndGoAreNotified) {
  World world;
  world.core.remove_device(1);
  ASSERT_TRUE(world.core.add_device({0, 8}, "eth1", {0x1}, world.driver));
  ASSERT_EQ(world.notifications.size(), 2u);
  EXPECT_EQ(hex(world.notifications[0].datagram).substr(32, 24), "030100000800010001000000");
  EXPECT_EQ(hex(world.notifications[1].datagram).substr(32, 24), "020100000800010002000000");
}

TEST(Server, RxAssocRepliesWithSpiThenKey) {
  World world;
  const auto request = unhex(
      "24000000535001000900000000000000"
      "08010000"
      "0800020001000000"    // version 1
      "0800050003000000");  // sock-fd 3
  const auto out = world.ask(request, 40);
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(hex(out[0]),
            "4c000000535000000900000000000000"
            "08010000"
            "0800010001000000"  // dev-id
            "30000380"          // rx-key
            "0800020001010000"  // spi 0x101, host order
            "24000100000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
}

TEST(Server, TxAssocTakesSpiAndKeyInAnyOrder) {
  World world;
  ASSERT_EQ(world.ask(Assoc{}.message(PSPNL_CMD_RX_ASSOC), 40).size(), 1u);
  const auto request = unhex(
      "44000000535001000900000000000000"
      "09010000"
      "0800020000000000"
      "20000480"  // tx-key: key before spi
      "14000100aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
      "0800020005000080"
      "0800050003000000");
  const auto out = world.ask(request, 40);
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(hex(out[0]), "1400000053500000090000000000000009010000");
  EXPECT_EQ(world.driver.tx_spi, 0x80000005u);
  EXPECT_EQ(world.driver.tx_key, std::vector<std::uint8_t>(16, 0xaa));
}

TEST(Server, GetStatsWidensCountersByValue) {
  World world;
  world.driver.stats = {.rx_packets = 1,
                        .rx_bytes = 0x1'0000'0002,
                        .rx_auth_fail = 3,
                        .rx_error = 4,
                        .rx_bad = 5,
                        .tx_packets = 6,
                        .tx_bytes = 7,
                        .tx_error = 8};
  world.ask(with_id(PSPNL_CMD_KEY_ROTATE, 1));
  const std::string stats =
      "70000000535000000900000000000000"
      "0a010000"
      "0800010001000000"
      "0800020001000000"
      "0800030000000000"
      "0800040001000000"
      "0c0005000200000001000000"
      "0800060003000000"
      "0800070004000000"
      "0800080005000000"
      "0800090006000000"
      "08000a0007000000"
      "08000b0008000000";
  const auto out = world.ask(with_id(PSPNL_CMD_GET_STATS, 1));
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(hex(out[0]), stats);
  const auto dump = world.ask(psp_request(PSPNL_CMD_GET_STATS, kDump));
  ASSERT_EQ(dump.size(), 1u);
  EXPECT_EQ(hex(dump[0]), stats + "1400000003000200090000000000000000000000");
}

TEST(Server, NlctrlDescribesPspByNameAndNumber) {
  World world;
  const std::string description =
      "10010000100000000900000000000000"
      "01020000"
      "080002007073700006000100535000000800030001000000"
      "08000400000000000800050000000000"
      "a4000600"  // ops: number, flags
      "1400010008000100010000000800 02000e000000"
      "1400020008000100040000000800 02000b000000"
      "1400030008000100060000000800 02000b000000"
      "1400040008000100080000000800 02000a000000"
      "1400050008000100090000000800 02000a000000"
      "14000600080001000a0000000800 02000e000000"
      "14000700080001000b0000000800 02000b000000"
      "14000800080001000c0000000800 02000b000000"
      "30000700"  // groups
      "1800010008000200010053500900 01006d676d7400000000"
      "1400020008000200020053500800 010075736500";
  const auto by_name = world.ask(message(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, [](Writer& writer) {
    writer.put_string(CTRL_ATTR_FAMILY_NAME, "psp");
  }));
  const auto by_number = world.ask(message(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, [](Writer& writer) {
    writer.put_u16(CTRL_ATTR_FAMILY_ID, kPspFamilyId);
  }));
  ASSERT_EQ(by_name.size(), 1u);
  EXPECT_EQ(hex(by_name[0]), hex(unhex(description)));
  EXPECT_EQ(by_number, by_name);
}

TEST(Server, NlctrlTellsThePoliciesOfOneOperation) {
  World world;
  const auto out = world.ask(message(
      GENL_ID_CTRL, CTRL_CMD_GETPOLICY,
      [](Writer& writer) {
        writer.put_u16(CTRL_ATTR_FAMILY_ID, kPspFamilyId);
        writer.put_u32(CTRL_ATTR_OP, PSPNL_CMD_TX_ASSOC);
      },
      kDump));
  ASSERT_EQ(out.size(), 1u);
  const auto row = [](const char* length, const std::string& rest) {
    return hex(unhex(std::string(length) + "00000010000200 0900000000000000 0a020000" +
                     "0600010053500000" + rest));
  };
  EXPECT_EQ(hex(out[0]),
            row("2c", "10000980 0c000980 0800010000000000") +  // tx-assoc: policy 0 for do
                row("48",
                    "2c000880 28000080 24000180 0c0004000100000000000000"
                    "0c000500ffffffff00000000 0800010004000000") +  // dev-id: u32 from 1
                row("48",
                    "2c000880 28000080 24000280 0c0004000000000000000000"
                    "0c0005000300000000000000 0800010004000000") +  // version: to 3
                row("40",
                    "24000880 20000080 1c000480 0800080001000000"
                    "0800090002000000 080001000d000000") +  // tx-key: policy 1, two attributes
                row("48",
                    "2c000880 28000080 24000580 0c0004000000000000000000"
                    "0c000500ffffffff00000000 0800010004000000") +          // sock-fd
                row("30", "14000880 10000180 0c000180 080001000a000000") +  // key: binary
                row("48",
                    "2c000880 28000180 24000280 0c0004000000000000000000"
                    "0c000500ffffffff00000000 0800010004000000") +  // spi
                "1400000003000200090000000000000000000000");
}

TEST(Server, NlctrlTellsThePoliciesOfAFamily) {
  World world;
  for (const auto& [family, operations, attributes] :
       {std::tuple{kPspFamilyId, 8, 20}, std::tuple{kSoftpspFamilyId, 3, 2}}) {
    std::size_t maps = 0, policies = 0;
    for (const Datagram& datagram : world.ask(message(
             GENL_ID_CTRL, CTRL_CMD_GETPOLICY,
             [id = family](Writer& writer) { writer.put_u16(CTRL_ATTR_FAMILY_ID, id); }, kDump)))
      for (std::size_t at = 0; at < datagram.size();) {
        const auto* header = reinterpret_cast<const nlmsghdr*>(datagram.data() + at);
        for_each_attribute(message_attributes(header), [&](const nlattr* attribute) {
          maps += mnl_attr_get_type(attribute) == CTRL_ATTR_OP_POLICY;
          policies += mnl_attr_get_type(attribute) == CTRL_ATTR_POLICY;
        });
        at += header->nlmsg_len;
      }
    EXPECT_EQ(maps, static_cast<std::size_t>(operations));
    EXPECT_EQ(policies, static_cast<std::size_t>(attributes));
  }
}

TEST(Server, NlctrlKnowsSoftpspAndNothingElse) {
  World world;
  const auto ask = [&](const char* name) {
    const auto request = message(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, [&](Writer& writer) {
      writer.put_string(CTRL_ATTR_FAMILY_NAME, name);
    });
    return refusal(world.ask(request), request).error;
  };
  EXPECT_EQ(ask("softpsp"), 1) << "a reply, no error";
  EXPECT_EQ(ask("pspx"), -ENOENT);
  EXPECT_EQ(ask("ethtool"), -ENOENT);
}

// ---- the error table --------------------------------------------------------------------------

struct Row {
  const char* what;
  std::vector<std::uint8_t> request;
  int error;
  const char* text = "";
  std::optional<std::uint32_t> bad_offset{}, missing_type{}, missing_nest{};
  int fd = 40;
};

void expect_refusal(World& world, const Row& row) {
  SCOPED_TRACE(row.what);
  const Refusal got = refusal(world.ask(row.request, row.fd), row.request);
  EXPECT_EQ(got.error, -row.error);
  EXPECT_TRUE(got.quoted);
  EXPECT_EQ(got.text, row.text);
  EXPECT_EQ(got.bad_offset, row.bad_offset);
  EXPECT_EQ(got.missing_type, row.missing_type);
  EXPECT_EQ(got.missing_nest, row.missing_nest);
}

TEST(ErrorTable, DeviceRequests) {
  World world({0x3});
  for (const std::uint8_t cmd :
       {PSPNL_CMD_DEV_GET, PSPNL_CMD_DEV_SET, PSPNL_CMD_KEY_ROTATE, PSPNL_CMD_GET_STATS}) {
    SCOPED_TRACE(static_cast<int>(cmd));
    expect_refusal(
        world, {.what = "no id", .request = psp_request(cmd), .error = EINVAL, .missing_type = 1});
    expect_refusal(world, {.what = "unknown device", .request = with_id(cmd, 7), .error = ENODEV});
    expect_refusal(world, {.what = "huge id", .request = with_id(cmd, 0x10001), .error = ENODEV});
    expect_refusal(world, {.what = "id 0",
                           .request = with_id(cmd, 0),
                           .error = ERANGE,
                           .text = "integer out of range",
                           .bad_offset = 20});
  }
  const auto set = [](std::uint32_t id, std::uint32_t bits) {
    return psp_request(PSPNL_CMD_DEV_SET, [=](Writer& writer) {
      writer.put_u32(PSPNL_DEV_ID, id);
      writer.put_u32(PSPNL_DEV_PSP_VERSIONS_ENA, bits);
    });
  };
  expect_refusal(world, {.what = "no settings",
                         .request = with_id(PSPNL_CMD_DEV_SET, 1),
                         .error = EINVAL,
                         .text = "No settings present"});
  expect_refusal(world, {.what = "outside cap",
                         .request = set(1, 0x4),
                         .error = EINVAL,
                         .text = "Requested PSP versions not supported by the device"});
  expect_refusal(world, {.what = "no such version",
                         .request = set(1, 0x10),
                         .error = EINVAL,
                         .text = "reserved bit set",
                         .bad_offset = 28});
  expect_refusal(
      world,
      {.what = "the device comes before its settings", .request = set(7, 0x4), .error = ENODEV});
  world.driver.refusal = {.sys_errno = EIO, .text = "broken"};
  expect_refusal(
      world, {.what = "driver refuses", .request = set(1, 0x1), .error = EIO, .text = "broken"});
  expect_refusal(world, {.what = "driver refuses",
                         .request = with_id(PSPNL_CMD_KEY_ROTATE, 1),
                         .error = EIO,
                         .text = "broken"});
  world.driver.refusal = {.sys_errno = EOPNOTSUPP};
  expect_refusal(
      world,
      {.what = "no counters", .request = with_id(PSPNL_CMD_GET_STATS, 1), .error = EOPNOTSUPP});
}

TEST(ErrorTable, BothAssocRequests) {
  World world({0x3});
  world.sockets.sockets[41] = {.cookie = 2, .tcp = false};
  world.sockets.sockets[42] = {.cookie = 3, .route_ifindex = 0};
  for (const std::uint8_t cmd : {PSPNL_CMD_RX_ASSOC, PSPNL_CMD_TX_ASSOC}) {
    SCOPED_TRACE(static_cast<int>(cmd));
    const std::uint32_t sock_fd = cmd == PSPNL_CMD_RX_ASSOC ? 28 : 28 + 32;
    expect_refusal(world, {.what = "no sock-fd",
                           .request = Assoc{.sock_fd = {}}.message(cmd),
                           .error = EINVAL,
                           .missing_type = 5});
    expect_refusal(
        world,
        {.what = "no descriptor came", .request = Assoc{}.message(cmd), .error = EBADF, .fd = -1});
    expect_refusal(
        world, {.what = "no socket", .request = Assoc{}.message(cmd), .error = ENOTSOCK, .fd = 99});
    expect_refusal(world, {.what = "not TCP",
                           .request = Assoc{}.message(cmd),
                           .error = EOPNOTSUPP,
                           .text = "Unsupported socket family and type",
                           .bad_offset = sock_fd,
                           .fd = 41});
    expect_refusal(world, {.what = "no device",
                           .request = Assoc{}.message(cmd),
                           .error = EINVAL,
                           .missing_type = 1,
                           .fd = 42});
    expect_refusal(world, {.what = "other device",
                           .request = Assoc{.dev_id = 2}.message(cmd),
                           .error = EINVAL,
                           .text = "Device id vs socket mismatch",
                           .bad_offset = 20});
    expect_refusal(world, {.what = "unknown device",
                           .request = Assoc{.dev_id = 2}.message(cmd),
                           .error = ENODEV,
                           .fd = 42});
    expect_refusal(world, {.what = "no version",
                           .request = Assoc{.version = {}}.message(cmd),
                           .error = EINVAL,
                           .missing_type = 2});
    expect_refusal(world, {.what = "version not in cap",
                           .request = Assoc{.version = 2}.message(cmd),
                           .error = EOPNOTSUPP,
                           .bad_offset = 20});
    expect_refusal(world, {.what = "no such version",
                           .request = Assoc{.version = 4}.message(cmd),
                           .error = ERANGE,
                           .text = "integer out of range",
                           .bad_offset = 20});
  }
}

TEST(ErrorTable, RxAssoc) {
  World world;
  world.sockets.sockets[43] = {.cookie = 4, .established = false};
  expect_refusal(world, {.what = "not established",
                         .request = Assoc{}.message(PSPNL_CMD_RX_ASSOC),
                         .error = ENOTCONN,
                         .text = "Socket must be in established state",
                         .bad_offset = 28,
                         .fd = 43});
  world.ask(Assoc{}.message(PSPNL_CMD_RX_ASSOC), 40);
  expect_refusal(world, {.what = "twice",
                         .request = Assoc{}.message(PSPNL_CMD_RX_ASSOC),
                         .error = EBUSY,
                         .text = "Socket already has PSP state",
                         .bad_offset = 28});
  world.driver.refusal = {.sys_errno = ENOSPC, .text = "SPI space exhausted"};
  expect_refusal(world, {.what = "SPI space",
                         .request = Assoc{}.message(PSPNL_CMD_RX_ASSOC),
                         .error = ENOSPC,
                         .text = "SPI space exhausted"});
}

TEST(ErrorTable, TxAssocKey) {
  World world;
  const auto tx = [](const Assoc& assoc) { return assoc.message(PSPNL_CMD_TX_ASSOC); };
  expect_refusal(
      world,
      {.what = "no tx-key", .request = tx({.nest = false}), .error = EINVAL, .missing_type = 4});
  expect_refusal(world, {.what = "no key",
                         .request = tx({.key_octets = {}}),
                         .error = EINVAL,
                         .missing_type = 1,
                         .missing_nest = 28});
  expect_refusal(world, {.what = "no spi",
                         .request = tx({.spi = {}}),
                         .error = EINVAL,
                         .missing_type = 2,
                         .missing_nest = 28});
  expect_refusal(world, {.what = "empty nest",
                         .request = tx({.spi = {}, .key_octets = {}}),
                         .error = EINVAL,
                         .missing_type = 1,
                         .missing_nest = 28});
  for (const std::size_t octets : {0, 15, 17, 32})
    expect_refusal(world, {.what = "key length",
                           .request = tx({.key_octets = octets}),
                           .error = EINVAL,
                           .text = "incorrect key length",
                           .bad_offset = 40});
  for (const std::uint32_t spi : {0u, 0x80000000u})
    expect_refusal(world, {.what = "SPI 0: the kernel points at the key",
                           .request = tx({.spi = spi}),
                           .error = EINVAL,
                           .text = "invalid SPI: lower 31b must be non-zero",
                           .bad_offset = 40});
}

TEST(ErrorTable, TxAssocState) {
  World world;
  testing::FakeDriver other;
  ASSERT_TRUE(world.core.add_device({0, 9}, "eth1", VersionSet::all(), other));
  world.sockets.sockets[43] = {.cookie = 4, .established = false};
  const auto tx = Assoc{}.message(PSPNL_CMD_TX_ASSOC);
  expect_refusal(world, {.what = "not established",
                         .request = tx,
                         .error = ENOTCONN,
                         .text = "Socket must be in established state",
                         .fd = 43});
  expect_refusal(world,
                 {.what = "no rx", .request = tx, .error = EINVAL, .text = "Socket has no Rx key"});
  world.ask(Assoc{}.message(PSPNL_CMD_RX_ASSOC), 40);
  world.sockets.sockets[40].route_ifindex = 9;
  expect_refusal(
      world,
      {.what = "rerouted", .request = tx, .error = EINVAL, .text = "Rx key from different device"});
  world.sockets.sockets[40].route_ifindex = 7;
  expect_refusal(world, {.what = "other version",
                         .request = Assoc{.version = 2}.message(PSPNL_CMD_TX_ASSOC),
                         .error = EINVAL,
                         .text = "PSP version mismatch with existing state"});
  world.sockets.sockets[40].clear_queued = true;
  expect_refusal(world, {.what = "clear data queued",
                         .request = tx,
                         .error = EBUSY,
                         .text = "Socket has incompatible segments already in the recv queue"});
  world.sockets.sockets[40].clear_queued = false;
  world.ask(tx, 40);
  expect_refusal(world,
                 {.what = "twice", .request = tx, .error = EBUSY, .text = "Tx key already set"});
}

TEST(ErrorTable, PermissionComesBeforeTheAttributes) {
  World world;
  world.caller.net_admin = false;
  for (const std::uint8_t cmd : {PSPNL_CMD_DEV_SET, PSPNL_CMD_KEY_ROTATE}) {
    expect_refusal(world, {.what = "valid", .request = with_id(cmd, 1), .error = EPERM});
    expect_refusal(world, {.what = "invalid", .request = with_id(cmd, 0), .error = EPERM});
  }
  EXPECT_THAT(world.notifications, IsEmpty());
  auto reserved = with_id(PSPNL_CMD_KEY_ROTATE, 1);
  reserved[18] = 1;
  expect_refusal(world, {.what = "the header comes first",
                         .request = reserved,
                         .error = EINVAL,
                         .text = "genlmsghdr.reserved field is not 0"});
  EXPECT_EQ(world.ask(with_id(PSPNL_CMD_DEV_GET, 1)).size(), 1u) << "reading is for all";
}

TEST(ErrorTable, CommandsThatAreNotServed) {
  World world;
  for (const std::uint8_t cmd :
       {0, PSPNL_CMD_DEV_ADD_NTF + 0, PSPNL_CMD_KEY_ROTATE_NTF + 0, 13, 255})
    expect_refusal(world, {.what = "command", .request = with_id(cmd, 1), .error = EOPNOTSUPP});
  for (const std::uint8_t cmd : {PSPNL_CMD_DEV_SET, PSPNL_CMD_KEY_ROTATE, PSPNL_CMD_RX_ASSOC})
    expect_refusal(world,
                   {.what = "dump", .request = psp_request(cmd, kDump), .error = EOPNOTSUPP});
}

// ---- namespaces -------------------------------------------------------------------------------

std::vector<std::uint8_t> dev_assoc(std::uint8_t cmd, std::optional<std::uint32_t> ifindex,
                                    std::optional<std::int32_t> nsid, std::uint32_t id = 1) {
  return psp_request(cmd, [&](Writer& writer) {
    writer.put_u32(PSPNL_DEV_ID, id);
    if (ifindex) writer.put_u32(PSPNL_DEV_IFINDEX, *ifindex);
    if (nsid) writer.put_u32(PSPNL_DEV_NSID, static_cast<std::uint32_t>(*nsid));
  });
}

TEST(Namespaces, DevAssocIsAnsweredWithNothingAndToldToBothNamespaces) {
  World world;
  const auto out = world.ask(dev_assoc(PSPNL_CMD_DEV_ASSOC, 50, 3));
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(hex(out[0]), "140000005350000009000000000000000b010000");
  EXPECT_THAT(world.netdevs.attached, ::testing::ElementsAre(device::NetdevKey{3, 50}));
  ASSERT_EQ(world.notifications.size(), 2u);
  EXPECT_EQ(world.notifications[0].netns, 3u);
  EXPECT_EQ(hex(world.notifications[0].datagram),
            "30000000535000000000000000000000"
            "05010000"
            "0800010001000000"
            "080003000f000000"
            "0800040000000000"
            "04000700");  // by-association; no ifindex, and no netdev
  EXPECT_EQ(world.notifications[1].netns, 0u);
  EXPECT_EQ(hex(world.notifications[1].datagram),
            "48000000535000000000000000000000"
            "05010000"
            "0800010001000000"
            "0800020007000000"
            "080003000f000000"
            "0800040000000000"
            "14000580"
            "0800010032000000"
            "0800020003000000");
  world.notifications.clear();
  const auto gone = world.ask(dev_assoc(PSPNL_CMD_DEV_DISASSOC, 50, 3));
  ASSERT_EQ(gone.size(), 1u);
  EXPECT_EQ(hex(gone[0]), "140000005350000009000000000000000c010000");
  ASSERT_EQ(world.notifications.size(), 2u);
  EXPECT_EQ(world.notifications[0].netns, 0u);
  EXPECT_EQ(hex(world.notifications[0].datagram).substr(32, 8), "05010000");
  EXPECT_EQ(world.notifications[0].datagram.size(), 52u) << "without the netdev";
  EXPECT_EQ(world.notifications[1].netns, 3u);
  EXPECT_EQ(hex(world.notifications[1].datagram),
            "30000000535000000000000000000000"
            "03010000"
            "0800010001000000"
            "080003000f000000"
            "0800040000000000"
            "04000700");
}

TEST(Namespaces, UpToLinux73AnAssociatedOneIsToldOfNetdevsAndNotThatItLosesOne) {
  World world;
  world.core.set_compat(device::Compat::kLinux72);
  ASSERT_EQ(world.ask(dev_assoc(PSPNL_CMD_DEV_ASSOC, 50, 3)).size(), 1u);
  const std::string set =
      "0800010001000000"
      "0800020007000000"  // the main netdev's
      "080003000f000000"
      "0800040000000000"
      "04000700"
      "14000580"
      "0800010032000000"
      "08000200ffffffff";
  ASSERT_EQ(world.notifications.size(), 2u);
  EXPECT_EQ(world.notifications[0].netns, 3u);
  EXPECT_EQ(hex(world.notifications[0].datagram).substr(32), "05010000" + set);
  world.notifications.clear();
  ASSERT_EQ(world.ask(dev_assoc(PSPNL_CMD_DEV_DISASSOC, 50, 3)).size(), 1u);
  ASSERT_EQ(world.notifications.size(), 2u);
  EXPECT_EQ(world.notifications[0].netns, 3u);
  EXPECT_EQ(hex(world.notifications[0].datagram).substr(32), "05010000" + set) << "as it was";
}

TEST(Namespaces, EveryNamespaceHearsOnceAndTheMainOneLast) {
  World world;
  for (const int nsid : {2, 3, 2}) {
    const auto ifindex = static_cast<std::uint32_t>(20 + world.netdevs.attached.size());
    ASSERT_EQ(world.ask(dev_assoc(PSPNL_CMD_DEV_ASSOC, ifindex, nsid)).size(), 1u);
  }
  const auto heard = [&] {
    std::vector<std::pair<std::uint32_t, std::uint64_t>> who;
    for (const auto& one : std::exchange(world.notifications, {}))
      who.emplace_back(one.group, one.netns);
    return who;
  };
  heard();
  using ::testing::ElementsAre;
  using ::testing::Pair;
  world.ask(with_id(PSPNL_CMD_KEY_ROTATE, 1));
  EXPECT_THAT(heard(), ElementsAre(Pair(2, 2), Pair(2, 3), Pair(2, 0)));
  ASSERT_TRUE(world.core.set_versions(1, VersionSet{1}));
  EXPECT_THAT(heard(), ElementsAre(Pair(1, 2), Pair(1, 3), Pair(1, 0)));
  world.core.netdev_gone({2, 20});
  EXPECT_THAT(heard(), ElementsAre(Pair(1, 3), Pair(1, 2), Pair(1, 0))) << "one is left there";
  world.core.remove_device(1);
  EXPECT_THAT(heard(), ElementsAre(Pair(1, 3), Pair(1, 2), Pair(1, 0)));
}

TEST(Namespaces, ADumpHoldsWhatTheCallerMaySee) {
  World world;
  testing::FakeDriver other;
  ASSERT_TRUE(world.core.add_device({5, 7}, "eth0", {0x3}, other));
  const auto dump = psp_request(PSPNL_CMD_DEV_GET, kDump);
  const auto stats = psp_request(PSPNL_CMD_GET_STATS, kDump);
  const std::string done = "1400000003000200090000000000000000000000";
  world.caller.netns = 5;
  EXPECT_EQ(hex(world.ask(dump).at(0)).substr(40, 32), "08000100020000000800020007000000");
  EXPECT_EQ(hex(world.ask(dump).at(0)).substr(104), done);
  EXPECT_EQ(hex(world.ask(stats).at(0)).substr(40, 16), "0800010002000000");
  world.caller.netns = 6;
  EXPECT_EQ(hex(world.ask(dump).at(0)), done);
  EXPECT_EQ(hex(world.ask(stats).at(0)), done);
}

TEST(Namespaces, WhoSeesADeviceDoesNotOwnIt) {
  World world;
  ASSERT_EQ(world.ask(dev_assoc(PSPNL_CMD_DEV_ASSOC, 50, 3)).size(), 1u);
  world.caller.netns = 3;
  EXPECT_EQ(hex(world.ask(with_id(PSPNL_CMD_DEV_GET, 1)).at(0)),
            "30000000535000000900000000000000"
            "01010000"
            "0800010001000000080003000f000000080004000000000004000700");
  EXPECT_EQ(world.ask(with_id(PSPNL_CMD_GET_STATS, 1)).at(0).size(), 108u);
  for (const std::uint8_t cmd : {PSPNL_CMD_DEV_SET, PSPNL_CMD_KEY_ROTATE})
    expect_refusal(world, {.what = "not owned", .request = with_id(cmd, 1), .error = ENOENT});
  world.caller.netns = 4;
  for (const std::uint8_t cmd : {PSPNL_CMD_DEV_GET, PSPNL_CMD_DEV_SET, PSPNL_CMD_KEY_ROTATE,
                                 PSPNL_CMD_GET_STATS, PSPNL_CMD_DEV_ASSOC, PSPNL_CMD_DEV_DISASSOC})
    expect_refusal(world, {.what = "not seen", .request = with_id(cmd, 1), .error = ENOENT});
  expect_refusal(world, {.what = "dev-id of another namespace",
                         .request = Assoc{.dev_id = 1}.message(PSPNL_CMD_RX_ASSOC),
                         .error = ENOENT});
  expect_refusal(world, {.what = "a device that is not seen is none",
                         .request = Assoc{}.message(PSPNL_CMD_RX_ASSOC),
                         .error = EINVAL,
                         .missing_type = PSPNL_ASSOC_DEV_ID});
}

TEST(ErrorTable, DevAssoc) {
  World world;
  for (const std::uint8_t cmd : {PSPNL_CMD_DEV_ASSOC, PSPNL_CMD_DEV_DISASSOC}) {
    expect_refusal(
        world, {.what = "no id", .request = psp_request(cmd), .error = EINVAL, .missing_type = 1});
    expect_refusal(world,
                   {.what = "no device", .request = dev_assoc(cmd, 50, 3, 2), .error = ENODEV});
    expect_refusal(world, {.what = "no ifindex",
                           .request = dev_assoc(cmd, {}, 77),
                           .error = EINVAL,
                           .missing_type = 2});
    expect_refusal(world, {.what = "no such nsid",
                           .request = dev_assoc(cmd, 50, 77),
                           .error = EINVAL,
                           .bad_offset = 36});
    expect_refusal(world, {.what = "no such netdev",
                           .request = dev_assoc(cmd, 1000, 3),
                           .error = ENODEV,
                           .bad_offset = 28});
    world.caller.net_admin = false;
    expect_refusal(world,
                   {.what = "no capability", .request = dev_assoc(cmd, 50, 3), .error = EPERM});
    world.caller.net_admin = true;
  }
  ASSERT_EQ(world.ask(dev_assoc(PSPNL_CMD_DEV_ASSOC, 50, 3)).size(), 1u);
  for (const auto& [ifindex, nsid] : {std::pair<std::uint32_t, std::optional<int>>{50, 3}, {7, {}}})
    expect_refusal(world, {.what = "has one",
                           .request = dev_assoc(PSPNL_CMD_DEV_ASSOC, ifindex, nsid),
                           .error = EBUSY,
                           .text = "Device already associated with a PSP device"});
  world.caller.netns = 3;
  expect_refusal(world, {.what = "nsid from elsewhere",
                         .request = dev_assoc(PSPNL_CMD_DEV_ASSOC, 51, 3),
                         .error = EPERM,
                         .bad_offset = 36});
  world.caller.netns = 0;
  for (std::uint32_t ifindex = 100; ifindex < 227; ++ifindex)
    ASSERT_EQ(world.ask(dev_assoc(PSPNL_CMD_DEV_ASSOC, ifindex, 3)).size(), 1u);
  expect_refusal(world, {.what = "128 already",
                         .request = dev_assoc(PSPNL_CMD_DEV_ASSOC, 300, 3),
                         .error = ENOSPC,
                         .text = "Maximum number of associated devices reached"});
}

TEST(Compatibility, TheFirstReleaseAskedForNoCapability) {
  World world;
  world.caller.net_admin = false;
  world.core.set_compat(device::Compat::kLinux618);
  EXPECT_EQ(refusal(world.ask(with_id(PSPNL_CMD_DEV_SET, 1)), with_id(PSPNL_CMD_DEV_SET, 1)).text,
            "No settings present");
  EXPECT_EQ(hex(world.ask(with_id(PSPNL_CMD_KEY_ROTATE, 1)).at(0)).substr(32, 8), "06010000");
  expect_refusal(
      world,
      {.what = "always asked", .request = dev_assoc(PSPNL_CMD_DEV_ASSOC, 50, 3), .error = EPERM});
  world.sockets.sockets[40].established = false;
  EXPECT_EQ(hex(world.ask(Assoc{}.message(PSPNL_CMD_RX_ASSOC), 40).at(0)).substr(32, 8),
            "08010000");
}

// ---- policies ---------------------------------------------------------------------------------

TEST(Policies, TypesTheKernelDoesNotTakeAreRefused) {
  World world;
  const auto attribute = [](std::uint8_t cmd, std::uint16_t type) {
    return psp_request(cmd, [type](Writer& writer) { writer.put_u32(type, 1); });
  };
  const auto unsupported = [&](std::uint8_t cmd, std::uint16_t type) {
    expect_refusal(world, {.what = "unsupported",
                           .request = attribute(cmd, type),
                           .error = EINVAL,
                           .text = "Unsupported attribute",
                           .bad_offset = 20});
  };
  const auto unknown = [&](std::uint8_t cmd, std::uint16_t type) {
    expect_refusal(world, {.what = "unknown",
                           .request = attribute(cmd, type),
                           .error = EINVAL,
                           .text = "Unknown attribute type",
                           .bad_offset = 20});
  };
  unknown(PSPNL_CMD_DEV_GET, 2);
  unsupported(PSPNL_CMD_DEV_SET, 2);
  unsupported(PSPNL_CMD_DEV_SET, 3);
  unknown(PSPNL_CMD_DEV_SET, 5);
  unknown(PSPNL_CMD_KEY_ROTATE, 4);
  unsupported(PSPNL_CMD_RX_ASSOC, 3);
  unsupported(PSPNL_CMD_RX_ASSOC, 4);
  unknown(PSPNL_CMD_RX_ASSOC, 6);
  unsupported(PSPNL_CMD_TX_ASSOC, 3);
  unknown(PSPNL_CMD_TX_ASSOC, 6);
  unknown(PSPNL_CMD_GET_STATS, 2);
  unknown(PSPNL_CMD_GET_STATS, 0);
}

TEST(Policies, TheNestedKeyIsCheckedBeforeTheRequestBegins) {
  World world;
  const auto nest = [](bool flag, std::string_view content) {
    const auto octets = unhex(content);
    return psp_request(PSPNL_CMD_TX_ASSOC, [&](Writer& writer) {
      writer.put_octets(PSPNL_ASSOC_TX_KEY | (flag ? NLA_F_NESTED : 0), octets);
    });
  };
  expect_refusal(world, {.what = "no flag",
                         .request = nest(false, "0800020001000000"),
                         .error = EINVAL,
                         .text = "NLA_F_NESTED is missing",
                         .bad_offset = 20});
  expect_refusal(world, {.what = "short",
                         .request = nest(true, "0800"),
                         .error = ERANGE,
                         .text = "Attribute failed policy validation",
                         .bad_offset = 20});
  expect_refusal(world, {.what = "spi length",
                         .request = nest(true, "0600020001000000"),
                         .error = EINVAL,
                         .text = "invalid attribute length",
                         .bad_offset = 24});
  expect_refusal(world, {.what = "unknown inside",
                         .request = nest(true, "0800030001000000"),
                         .error = EINVAL,
                         .text = "Unknown attribute type",
                         .bad_offset = 24});
  expect_refusal(world, {.what = "inner longer than the nest",
                         .request = nest(true, "1000010001000000"),
                         .error = EINVAL,
                         .text = "bytes leftover after parsing attributes"});
}

TEST(Policies, TheBrokenPolicyComesAlong) {
  World world;
  const auto tail = [&](const std::vector<std::uint8_t>& request) {
    const auto out = world.ask(request);
    return out.size() == 1 ? hex(std::span(out[0]).subspan(20 + request.size())) : "";
  };
  EXPECT_EQ(tail(Assoc{.version = 4}.message(PSPNL_CMD_RX_ASSOC)),
            "19000100696e7465676572206f7574206f662072616e676500000000"  // the text
            "0800020014000000"                                          // offset 20
            "24000480"                                                  // the policy:
            "0c0004000000000000000000"                                  // from 0
            "0c0005000300000000000000"                                  // to 3
            "0800010004000000");                                        // u32
  const auto no_flag = psp_request(PSPNL_CMD_TX_ASSOC,
                                   [](Writer& writer) { writer.put_u32(PSPNL_ASSOC_TX_KEY, 0); });
  EXPECT_EQ(tail(no_flag),
            "1c0001004e4c415f465f4e4553544544206973206d697373696e6700"
            "0800020014000000"
            "0c000480080001000d000000");
}

TEST(Policies, DumpsTakeNoAttribute) {
  World world;
  for (const auto compat : {device::Compat::kLinux72, device::Compat::kNetNext}) {
    world.core.set_compat(compat);
    expect_refusal(world, {.what = "dump with an attribute",
                           .request = with_id(PSPNL_CMD_DEV_GET, 1, kDump),
                           .error = EINVAL,
                           .text = "Unknown attribute type",
                           .bad_offset = 20});
  }
}

TEST(Policies, DumpsOfTheFirstReleaseDoNotLookAtAttributes) {
  World world;
  world.core.set_compat(device::Compat::kLinux618);
  const auto out = world.ask(with_id(PSPNL_CMD_DEV_GET, 0, kDump));
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].size(), 52u + 20u);
}

// ---- softpsp ----------------------------------------------------------------------------------

TEST(Softpsp, SubscribeSetsTheCallersGroups) {
  World world;
  const auto subscribe = [&](std::uint32_t groups) {
    return message(kSoftpspFamilyId, SOFTPSP_CMD_SUBSCRIBE,
                   [=](Writer& writer) { writer.put_u32(SOFTPSP_SUBSCRIBE_GROUPS, groups); });
  };
  EXPECT_EQ(world.ask(subscribe(3)).size(), 1u);
  EXPECT_EQ(world.caller.groups, 3u);
  expect_refusal(world, {.what = "no such group",
                         .request = subscribe(4),
                         .error = EINVAL,
                         .text = "reserved bit set",
                         .bad_offset = 20});
  EXPECT_EQ(world.caller.groups, 3u);
  world.ask(subscribe(0));
  EXPECT_EQ(world.caller.groups, 0u);
}

TEST(Softpsp, WithoutInspectorThereIsNothingToTell) {
  World world;
  Server server(world.core, nullptr);
  std::vector<Datagram> out;
  const auto request = message(kSoftpspFamilyId, SOFTPSP_CMD_INFO_GET);
  server.handle(world.caller, request, -1, out);
  EXPECT_EQ(refusal(out, request).error, -EOPNOTSUPP);
}

TEST(Softpsp, ALongDumpComesInDatagramsOfAtMost16KiB) {
  World world;
  constexpr std::size_t kRows = 100'000;
  AssocInfo info;
  info.ifname = "eth0";
  info.local_address = info.peer_address = "2001:db8::1234:5678";
  info.tcp_state = "established";
  world.inspector.all.assign(kRows, info);
  const auto out = world.ask(message(kSoftpspFamilyId, SOFTPSP_CMD_ASSOC_GET, kDump));
  ASSERT_GT(out.size(), 1u);
  std::size_t rows = 0, done = 0;
  for (const Datagram& datagram : out) {
    ASSERT_LE(datagram.size(), 16384u);
    for (std::size_t at = 0; at < datagram.size();) {
      const auto* header = reinterpret_cast<const nlmsghdr*>(datagram.data() + at);
      ASSERT_TRUE(message_ok(header, datagram.size() - at));
      (header->nlmsg_type == NLMSG_DONE ? done : rows) += 1;
      at += header->nlmsg_len;
    }
  }
  EXPECT_EQ(rows, kRows);
  EXPECT_EQ(done, 1u);
}

TEST(Dump, IsMadePartByPartWhileItIsRead) {
  World world;
  world.inspector.all.assign(10'000, AssocInfo{});
  std::vector<Datagram> out;
  const auto request = message(kSoftpspFamilyId, SOFTPSP_CMD_ASSOC_GET, kDump);
  world.server.handle(world.caller, request, -1, out);
  std::size_t parts = 1, done = 0;
  do {
    std::size_t octets = 0;
    for (const Datagram& datagram : out) {
      octets += datagram.size();
      done += hex(datagram).ends_with("1400000003000200090000000000000000000000");
    }
    EXPECT_LE(octets, 32768u);
    out.clear();
    ++parts;
  } while (world.server.resume(world.caller, out));
  EXPECT_GT(parts, 10u);
  EXPECT_EQ(done, 1u);
  EXPECT_THAT(out, IsEmpty());
  EXPECT_EQ(world.caller.dump, nullptr);
}

TEST(Dump, OfATransportThatCannotResumeIsMadeAtOnce) {
  World world;
  world.caller.paced = false;
  world.inspector.all.assign(1000, AssocInfo{});
  std::vector<Datagram> out;
  world.server.handle(world.caller, message(kSoftpspFamilyId, SOFTPSP_CMD_ASSOC_GET, kDump), -1,
                      out);
  EXPECT_GT(out.size(), 2u);
  EXPECT_FALSE(world.server.resume(world.caller, out));
}

TEST(Dump, OneAtATimeAndOtherRequestsMeanwhile) {
  World world;
  world.inspector.all.assign(1000, AssocInfo{});
  const auto first = message(kSoftpspFamilyId, SOFTPSP_CMD_ASSOC_GET, kDump);
  const auto second = psp_request(PSPNL_CMD_DEV_GET, kDump);
  auto both = first;
  both.insert(both.end(), second.begin(), second.end());
  std::vector<Datagram> out;
  world.server.handle(world.caller, both, -1, out);
  ASSERT_EQ(out.size(), 3u);
  EXPECT_EQ(refusal({out.back()}, second).error, -EBUSY);
  out.clear();
  world.server.handle(world.caller, second, -1, out);
  EXPECT_EQ(refusal(out, second).error, -EBUSY);
  out.clear();
  world.server.handle(world.caller, with_id(PSPNL_CMD_DEV_GET, 1), -1, out);
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(hex(out[0]).substr(32, 8), "01010000");
  Caller other{.net_admin = true};
  out.clear();
  world.server.handle(other, second, -1, out);
  EXPECT_EQ(out.at(0).size(), 52u + 20u) << "another client's dump is its own";
  while (world.server.resume(world.caller, out)) {
  }
  EXPECT_EQ(world.ask(second).at(0).size(), 52u + 20u);
}

// Parts takes a dump of devices apart: ids, and whether a message said that it was interrupted.
struct Parts {
  std::vector<std::uint32_t> ids;
  bool done = false, interrupted = false;
  void take(std::vector<Datagram>& datagrams) {
    for (const Datagram& datagram : std::exchange(datagrams, {}))
      for (std::size_t at = 0; at < datagram.size();) {
        const auto* header = reinterpret_cast<const nlmsghdr*>(datagram.data() + at);
        interrupted = interrupted || (header->nlmsg_flags & NLM_F_DUMP_INTR) != 0;
        if (header->nlmsg_type == NLMSG_DONE)
          done = true;
        else
          ids.push_back(get_u32(reinterpret_cast<const nlattr*>(datagram.data() + at + 20)));
        at += header->nlmsg_len;
      }
  }
};

class DeviceDump : public ::testing::Test {
 protected:
  void SetUp() override {
    for (std::uint32_t i = 0; i < 2000; ++i)
      ASSERT_TRUE(world.core.add_device({0, 100 + i}, "eth", {0x1}, world.driver));
    world.server.handle(world.caller, psp_request(PSPNL_CMD_DEV_GET, kDump), -1, out);
    parts.take(out);
    ASSERT_LT(parts.ids.size(), 1000u);
    ASSERT_FALSE(parts.done);
  }
  void finish() {
    while (world.server.resume(world.caller, out)) parts.take(out);
    EXPECT_TRUE(parts.done);
    for (std::size_t i = 1; i < parts.ids.size(); ++i) ASSERT_LT(parts.ids[i - 1], parts.ids[i]);
  }
  World world;
  std::vector<Datagram> out;
  Parts parts;
};

TEST_F(DeviceDump, ListsEachDeviceOnce) {
  finish();
  EXPECT_EQ(parts.ids.size(), 2001u);
  EXPECT_FALSE(parts.interrupted);
}

TEST_F(DeviceDump, GoesOnWhenDevicesComeAndGoAndSaysSo) {
  world.core.remove_device(2000);
  world.core.remove_device(1);
  ASSERT_TRUE(world.core.add_device({0, 5000}, "eth", {0x1}, world.driver));
  finish();
  EXPECT_EQ(parts.ids.size(), 2001u);  // 1 was listed before, 2002 came, 2000 is gone
  EXPECT_EQ(parts.ids.back(), 2002u);
  EXPECT_TRUE(parts.interrupted);
}

TEST_F(DeviceDump, IsInterruptedByAssociatedNetdevsToo) {
  ASSERT_TRUE(world.core.dev_assoc(0, 1, 50, 3));
  finish();
  EXPECT_TRUE(parts.interrupted);
}

TEST_F(DeviceDump, IsNotInterruptedByWhatChangesNoDevice) {
  ASSERT_TRUE(world.core.set_versions(1, VersionSet{1}));
  ASSERT_TRUE(world.core.key_rotate(1));
  finish();
  EXPECT_FALSE(parts.interrupted);
}

TEST(Dump, ThoseThatHoldMuchAndAreNotReadEndFirst) {
  World world;
  world.inspector.all.assign(100'000, AssocInfo{});
  const auto request = message(kSoftpspFamilyId, SOFTPSP_CMD_ASSOC_GET, kDump);
  std::vector<Caller> callers(3, Caller{.paced = true});
  std::vector<Datagram> out;
  for (Caller& caller : callers) {
    world.server.handle(caller, request, -1, out);
    if (&caller == &callers[1]) {
      ASSERT_TRUE(world.server.resume(callers[0], out));  // so the second has rested longest
    }
  }
  out.clear();
  ASSERT_TRUE(world.server.resume(callers[1], out));
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(hex(out[0]),
            "140000000300020009000000000000009"
            "7ffffff");  // done, ENOBUFS
  EXPECT_EQ(callers[1].dump, nullptr);
  for (Caller* caller : {&callers[0], &callers[2]}) {
    out.clear();
    while (world.server.resume(*caller, out)) {
    }
    EXPECT_TRUE(hex(out.back()).ends_with("1400000003000200090000000000000000000000"));
  }
}

TEST(Dump, AFailureInTheMiddleIsToldAtItsEnd) {
  World world;
  testing::FakeDriver broken;
  broken.refusal = {.sys_errno = EIO, .text = "counters do not answer"};
  ASSERT_TRUE(world.core.add_device({0, 9}, "eth1", {0x3}, broken));
  const auto request = psp_request(PSPNL_CMD_GET_STATS, kDump);
  const std::string row = hex(world.ask(with_id(PSPNL_CMD_GET_STATS, 1)).at(0));
  EXPECT_EQ(hex(world.ask(request).at(0)),
            row +
                "3000000003000202090000000000000"
                "0fbffffff"
                "1b000100636f756e7465727320646f206e6f7420616e7377657200"
                "00");
  world.caller.ext_ack = false;
  EXPECT_EQ(hex(world.ask(request).at(0)), row +
                                               "1400000003000200090000000000000"
                                               "0fbffffff");
}

TEST(Softpsp, AGuestSeesItsOwnConnectionsAndDevices) {
  World world;
  ASSERT_EQ(world.ask(dev_assoc(PSPNL_CMD_DEV_ASSOC, 50, 3)).size(), 1u);
  world.sockets.sockets[40] = {.cookie = 77, .netns = 3, .route_ifindex = 50};
  world.sockets.sockets[41] = {.cookie = 78};
  ASSERT_TRUE(world.core.rx_assoc({.fd = 40, .dev_id = {}, .version = Version{}, .tx_key = {}}));
  ASSERT_TRUE(world.core.rx_assoc({.fd = 41, .dev_id = {}, .version = Version{}, .tx_key = {}}));
  for (const std::uint64_t cookie : {77, 78, 79})
    world.inspector.all.emplace_back().cookie = cookie;
  for (const std::uint32_t id : {1, 2}) world.inspector.info.devices.emplace_back().id = id;
  const auto rows = [&](std::uint8_t cmd) {
    Parts parts;
    auto out = world.ask(message(kSoftpspFamilyId, cmd, kDump));
    parts.take(out);
    return parts.ids;
  };
  using ::testing::ElementsAre;
  EXPECT_THAT(rows(SOFTPSP_CMD_ASSOC_GET), ElementsAre(77, 78, 79));
  EXPECT_THAT(rows(SOFTPSP_CMD_INFO_GET), ElementsAre(1, 2));
  world.caller.netns = 3;
  EXPECT_THAT(rows(SOFTPSP_CMD_ASSOC_GET), ElementsAre(77));
  EXPECT_THAT(rows(SOFTPSP_CMD_INFO_GET), ElementsAre(1));
  world.caller.netns = 4;
  EXPECT_THAT(rows(SOFTPSP_CMD_ASSOC_GET), IsEmpty());
  EXPECT_THAT(rows(SOFTPSP_CMD_INFO_GET), IsEmpty());
}

// ---- bad input --------------------------------------------------------------------------------

TEST(BadInput, FragmentsOfAHeaderGetNoAnswer) {
  World world;
  const auto request = with_id(PSPNL_CMD_DEV_GET, 1);
  for (std::size_t size = 0; size < request.size(); ++size)
    EXPECT_THAT(world.ask(std::span(request).first(size)), IsEmpty()) << size;
}

TEST(BadInput, ADatagramAtAnOddAddressIsRead) {
  World world;
  auto request = with_id(PSPNL_CMD_DEV_GET, 1);
  request.insert(request.begin(), 0xff);
  EXPECT_EQ(world.ask(std::span(request).subspan(1)).size(), 1u);
}

TEST(BadInput, ALieAboutTheLengthStopsTheDatagram) {
  World world;
  auto request = with_id(PSPNL_CMD_DEV_GET, 1);
  const auto good = request;
  request[0] = 8;
  request.insert(request.end(), good.begin(), good.end());
  EXPECT_THAT(world.ask(request), IsEmpty());
  request[0] = 0xff;
  request[1] = 0xff;
  EXPECT_THAT(world.ask(request), IsEmpty());
}

TEST(KeyGet, IsForRootOfTheHomeNamespaceOnly) {
  World world;
  const auto request = message(kSoftpspFamilyId, SOFTPSP_CMD_KEY_GET, [](Writer& writer) {
    writer.put_octets(SOFTPSP_KEY_DATAGRAM, unhex("0102"));
  });
  const auto ask = [&](Caller caller) {
    world.caller = caller;
    return refusal(world.ask(request), request).error;
  };
  const std::uint64_t home = world.inspector.home_netns();
  EXPECT_EQ(ask({.net_admin = true, .uid = 1000, .netns = home}), -EPERM) << "capability only";
  EXPECT_EQ(ask({.net_admin = false, .uid = 0, .netns = home}), -EPERM) << "root without it";
  EXPECT_EQ(ask({.net_admin = true, .uid = 0, .netns = home + 1}), -EPERM) << "in a container";
  EXPECT_EQ(ask({.net_admin = true, .netns = home}), -EPERM) << "through another's envelope";
  EXPECT_EQ(ask({.net_admin = true, .uid = 0, .netns = home}), -EOPNOTSUPP) << "gets to the daemon";
}

TEST(PacketGet, IsForAnAdministratorOfTheHomeNamespaceOnly) {
  World world;
  const auto request = message(
      kSoftpspFamilyId, SOFTPSP_CMD_PACKET_GET, [](Writer&) {}, kDump);
  const auto ask = [&](Caller caller) {
    world.caller = caller;
    const auto answers = world.ask(request);
    return reinterpret_cast<const nlmsghdr*>(answers.at(0).data())->nlmsg_type == NLMSG_DONE
               ? 0
               : refusal(answers, request).error;
  };
  const std::uint64_t home = world.inspector.home_netns();
  EXPECT_EQ(ask({.net_admin = false, .netns = home}), -EPERM);
  EXPECT_EQ(ask({.net_admin = true, .netns = home + 1}), -EPERM);
  EXPECT_EQ(ask({.net_admin = true, .netns = home}), 0) << "an empty list";
}

TEST(BadInput, SixtyFourKiBOfEachOctetAreSurvived) {
  World world;
  for (int octet = 0; octet < 256; ++octet) {
    const std::vector<std::uint8_t> garbage(65536, static_cast<std::uint8_t>(octet));
    for (const Datagram& answer : world.ask(garbage)) EXPECT_LE(answer.size(), 16384u);
  }
}

TEST(BadInput, ManySmallRequestsInOneDatagramAreAllAnswered) {
  World world;
  std::vector<std::uint8_t> all;
  const auto one = with_id(PSPNL_CMD_DEV_GET, 1);
  while (all.size() + one.size() <= 65536) all.insert(all.end(), one.begin(), one.end());
  EXPECT_EQ(world.ask(all).size(), all.size() / one.size());
}

TEST(BadInput, AWrongLengthOfEveryAttributeIsRefused) {
  World world;
  const auto tx = Assoc{.dev_id = 1}.message(PSPNL_CMD_TX_ASSOC);
  // Each octet that could be a length, set to every small value: an answer, and only one.
  for (std::size_t at = 20; at + 1 < tx.size(); at += 4)
    for (int length = 0; length < 70; ++length) {
      auto spoilt = tx;
      spoilt[at] = static_cast<std::uint8_t>(length);
      EXPECT_EQ(world.ask(spoilt, 40).size(), 1u) << at << " " << length;
    }
}

}  // namespace
}  // namespace psp::netlink
