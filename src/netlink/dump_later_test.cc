// SPDX-License-Identifier: Apache-2.0
//
// Dumps of what becomes known bit by bit: a client hears nothing until there is something, a
// transport that cannot wait hears so, and an error stands at the end. The Server is real, its
// Inspector a model that has nothing for so many calls before each entry (test_support.hh). Time
// does not pass here; a real list of sockets, and who waits for it: control/later_test.cc.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "netlink/test_support.hh"

namespace psp::netlink {
namespace {

using testing::hex;
using testing::World;

constexpr std::uint16_t kDump = NLM_F_REQUEST | NLM_F_DUMP;
const std::vector<std::uint8_t> kAsk =
    testing::message(kSoftpspFamilyId, SOFTPSP_CMD_ASSOC_GET, kDump);

// counted is how many messages are rows, and how many the end.
std::pair<int, int> counted(const std::vector<Datagram>& datagrams) {
  std::pair<int, int> counts{};
  for (const Datagram& datagram : datagrams)
    for (std::size_t at = 0; at < datagram.size();) {
      const auto* header = reinterpret_cast<const nlmsghdr*>(datagram.data() + at);
      ++(header->nlmsg_type == NLMSG_DONE ? counts.second : counts.first);
      at += header->nlmsg_len;
    }
  return counts;
}

// error_of is the error that the last message tells, which is an NLMSG_DONE alone.
int error_of(const std::vector<Datagram>& datagrams) {
  int error = 1;
  if (!datagrams.empty()) std::memcpy(&error, datagrams.back().data() + NLMSG_HDRLEN, sizeof error);
  return error;
}

TEST(DumpLater, TellsEachEntryWhenItIsKnownAndNothingBefore) {
  World world;
  world.inspector.all.assign(3, AssocInfo{});
  world.inspector.gaps = 2;
  std::vector<Datagram> out;
  world.server.handle(world.caller, kAsk, -1, out);
  EXPECT_TRUE(out.empty());
  int waits = 1;
  for (bool more = true; more;) {
    const std::size_t before = out.size();
    more = world.server.resume(world.caller, out);
    if (more && out.size() == before) ++waits;
  }
  EXPECT_EQ(waits, 2) << "before the first; those after it come while others are read";
  EXPECT_EQ(counted(out), std::pair(3, 1));
  EXPECT_TRUE(std::ranges::none_of(out, [](const Datagram& one) { return one.empty(); }));
}

TEST(DumpLater, OfATransportThatCannotWaitEndsAtOnce) {
  World world;
  world.caller.paced = false;
  world.inspector.all.assign(3, AssocInfo{});
  world.inspector.gaps = 1;
  std::vector<Datagram> out;
  world.server.handle(world.caller, kAsk, -1, out);
  EXPECT_EQ(counted(out), std::pair(0, 1));
  EXPECT_EQ(error_of(out), -EAGAIN);
  EXPECT_FALSE(world.server.resume(world.caller, out));
}

TEST(DumpLater, ThatFailsSaysSoAtItsEnd) {
  World world;
  world.inspector.end = {.sys_errno = EIO, .text = "no list"};
  const auto out = world.ask(kAsk);
  EXPECT_EQ(counted(out), std::pair(0, 1));
  EXPECT_EQ(error_of(out), -EIO);
  EXPECT_THAT(
      hex(out.back()),
      ::testing::HasSubstr(hex(std::vector<std::uint8_t>{'n', 'o', ' ', 'l', 'i', 's', 't', 0})));
}

}  // namespace
}  // namespace psp::netlink
