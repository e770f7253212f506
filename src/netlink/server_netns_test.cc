// SPDX-License-Identifier: Apache-2.0
//
// Server: who hears of what, sees what and may do what, of the home namespace and of others. A
// caller is what the transport says of it, so namespaces are numbers here. Shown is that root of a
// container gets no key, no packet and no device of others; what is told to whom, in which order,
// by both rule sets. That the transport says the truth of a caller: control's tests and
// tests/netns.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server_test_support.hh"

namespace psp::netlink {
namespace {

using testing::Assoc;
using testing::dev_assoc;
using testing::expect_refusal;
using testing::hex;
using ::testing::IsEmpty;
using testing::kDump;
using testing::message;
using testing::Parts;
using testing::psp_request;
using testing::refusal;
using testing::unhex;
using testing::with_id;
using testing::World;

TEST(Namespaces, ANotificationWithoutMemoryIsALossAndUndoesNothing) {
  World world;
  ASSERT_EQ(world.ask(dev_assoc(PSPNL_CMD_DEV_ASSOC, 50, 3)).size(), 1u);
  std::vector<std::uint64_t> lost;
  world.server.set_multicast([&](std::uint32_t, std::uint64_t netns, const Datagram& message) {
    if (!message.empty()) throw std::bad_alloc();
    lost.push_back(netns);
  });
  const auto gone = world.ask(dev_assoc(PSPNL_CMD_DEV_DISASSOC, 50, 3));
  ASSERT_EQ(gone.size(), 1u);
  EXPECT_EQ(hex(gone[0]), "140000005350000009000000000000000c010000");
  EXPECT_THAT(world.netdevs.attached, IsEmpty());
  EXPECT_THAT(lost, ::testing::ElementsAre(0, 3)) << "members hear of a loss";
  EXPECT_EQ(world.ask(dev_assoc(PSPNL_CMD_DEV_ASSOC, 50, 3)).size(), 1u);
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
  device::FakeDriver other;
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

}  // namespace
}  // namespace psp::netlink
