// SPDX-License-Identifier: Apache-2.0
//
// Server: the kernel's error table row by row, in its order; and the policies of the attributes.
// The rows are those of docs/compatibility.md: errno, text, and the attribute that is pointed at,
// compared to the octet. Server and Core are real, sockets and driver are models. Which rows were
// compared with a running kernel that has the family is said there; here it is what we know of it.
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
using testing::psp_request;
using testing::refusal;
using testing::unhex;
using testing::with_id;
using testing::World;

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
  world.driver.refuse(device::Error{.sys_errno = EIO, .text = "broken"});
  expect_refusal(
      world, {.what = "driver refuses", .request = set(1, 0x1), .error = EIO, .text = "broken"});
  expect_refusal(world, {.what = "driver refuses",
                         .request = with_id(PSPNL_CMD_KEY_ROTATE, 1),
                         .error = EIO,
                         .text = "broken"});
  world.driver.refuse(device::Error{.sys_errno = EOPNOTSUPP});
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
  world.driver.refuse(device::Error{.sys_errno = ENOSPC, .text = "SPI space exhausted"});
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
  device::FakeDriver other;
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

}  // namespace
}  // namespace psp::netlink
