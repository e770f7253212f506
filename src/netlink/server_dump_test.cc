// SPDX-License-Identifier: Apache-2.0
//
// Server: dumps, made part by part while they are read, and what changes meanwhile; subscriptions.
// The test plays a client that reads when it likes: between two parts devices come and go, and
// other requests are asked. Each entry must come once, an interrupted list must say so, and who
// holds much and does not read must be the one who loses. Server and Core are real, without a
// socket; how a real client's pace gets here: control/*_test.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server_test_support.hh"

namespace psp::netlink {
namespace {

using testing::dev_assoc;
using testing::expect_refusal;
using testing::hex;
using ::testing::IsEmpty;
using testing::kDump;
using testing::message;
using testing::Parts;
using testing::psp_request;
using testing::refusal;
using testing::with_id;
using testing::World;

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
  device::FakeDriver broken;
  broken.refuse(device::Error{.sys_errno = EIO, .text = "counters do not answer"});
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

}  // namespace
}  // namespace psp::netlink
