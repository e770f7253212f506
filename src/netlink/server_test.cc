// SPDX-License-Identifier: Apache-2.0
//
// Server: golden octets of every message, and bad input. The Core is the real one, its sockets and
// driver are models. The octets are written out by hand after the kernel's code and specification:
// the server's own writer has no say in them. Bad input is every short length, every false length,
// 64 KiB of each octet; more of that by fuzz/control_fuzz.cc. Whether a kernel's client is content:
// tests of programs in docs/compatibility.md.
#include "netlink/server.hh"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server_test_support.hh"

namespace psp::netlink {
namespace {

using testing::Assoc;
using testing::hex;
using ::testing::IsEmpty;
using testing::kDump;
using testing::message;
using testing::psp_request;
using testing::refusal;
using testing::unhex;
using testing::with_id;
using testing::World;

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
  device::FakeDriver second;
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
  EXPECT_EQ(world.driver.added.back().spi.value, 0x80000005u);
  EXPECT_EQ(world.driver.added.back().key, std::vector<std::uint8_t>(16, 0xaa));
}

TEST(Server, GetStatsWidensCountersByValue) {
  World world;
  world.driver.counters = {.rx_packets = 1,
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
       {std::tuple{kPspFamilyId, 8, 20}, std::tuple{kSoftpspFamilyId, 4, 2}}) {
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
