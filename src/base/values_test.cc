// SPDX-License-Identifier: Apache-2.0
//
// The small things that several layers share: addresses, socket options, the log. Addresses are
// compared with the octets that unix(7) and inet_pton give, options with what real sockets answer.
// Entering a real namespace needs root and is in kernel/netns_test.cc.
#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <chrono>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <string>
#include <sys/socket.h>
#include <vector>

#include "base/backoff.hh"
#include "base/counted.hh"
#include "base/duty_cycle.hh"
#include "base/in_netns.hh"
#include "base/log.hh"
#include "base/printable.hh"
#include "base/socket_options.hh"
#include "base/unique_fd.hh"
#include "base/unix_address.hh"
#include "base/v4_mapped.hh"

namespace psp {
namespace {

using namespace std::chrono_literals;

TEST(Counted, IsOneOfThemOrSeveral) {
  EXPECT_EQ(counted(0, "packet"), "0 packets");
  EXPECT_EQ(counted(1, "packet"), "1 packet");
  EXPECT_EQ(counted(2, "packet"), "2 packets");
  EXPECT_EQ(counted(1, "try is left", "tries are left"), "1 try is left");
  EXPECT_EQ(counted(11, "try is left", "tries are left"), "11 tries are left");
}

TEST(DutyCycle, LeavesOthersSoManyTimesWhatAJobTook) {
  DutyCycle cycle(5);
  DutyCycle::Time now{};
  EXPECT_TRUE(cycle.due(now));
  cycle.ran(now, 10ms);
  EXPECT_FALSE(cycle.due(now + 49ms));
  EXPECT_TRUE(cycle.due(now + 50ms));
  cycle.ran(now + 20ms, 10ms);  // too early, as at a regular time: owed all the same
  EXPECT_FALSE(cycle.due(now + 99ms));
  EXPECT_TRUE(cycle.due(now + 100ms));
  cycle.ran(now + 10s, 10ms);  // a long rest is no credit
  EXPECT_FALSE(cycle.due(now + 10s + 49ms));
}

TEST(DutyCycle, MayBeAheadByItsCredit) {
  DutyCycle cycle(15, 300ms);
  DutyCycle::Time now{};
  for (int i = 0; i < 20; i++) {
    EXPECT_TRUE(cycle.due(now)) << i;
    cycle.ran(now, 1ms);
  }
  cycle.ran(now, 1ms);
  EXPECT_FALSE(cycle.due(now));
  EXPECT_TRUE(cycle.due(now + 15ms));
}

TEST(Backoff, DoublesItsPausesUpToHalfAMinuteAndForgetsThemWhenThereWasPeace) {
  Backoff backoff;
  Backoff::Time now{};
  EXPECT_TRUE(backoff.due(now));
  for (const auto pause : {100ms, 200ms, 400ms, 800ms, 1600ms, 3200ms, 6400ms, 12'800ms, 25'600ms,
                           30'000ms, 30'000ms}) {
    backoff.tried(now);
    EXPECT_FALSE(backoff.due(now + pause - 1ms));
    now += pause;
    EXPECT_TRUE(backoff.due(now));
    backoff.held(now);  // not for long
  }
  now += 30s;
  backoff.held(now);
  backoff.tried(now);
  EXPECT_TRUE(backoff.due(now + 100ms));
}

TEST(UnixAddress, APathEndsWithItsNull) {
  const auto address = UnixAddress::parse("/run/x");
  ASSERT_TRUE(address);
  EXPECT_STREQ(address->path(), "/run/x");
  EXPECT_EQ(address->length(), offsetof(sockaddr_un, sun_path) + 7);
}

TEST(UnixAddress, AnAbstractNameBeginsWithANull) {
  const auto address = UnixAddress::parse("@softpsp");
  ASSERT_TRUE(address);
  EXPECT_EQ(address->path(), nullptr);
  EXPECT_EQ(address->length(), offsetof(sockaddr_un, sun_path) + 8);
  const auto* name = reinterpret_cast<const sockaddr_un*>(address->get());
  EXPECT_EQ(std::string(name->sun_path, 8), std::string("\0softpsp", 8));
}

TEST(UnixAddress, WhatIsEmptyOrTooLongIsNone) {
  EXPECT_FALSE(UnixAddress::parse(""));
  EXPECT_FALSE(UnixAddress::parse("@"));
  constexpr std::size_t kRoom = sizeof(sockaddr_un::sun_path);
  EXPECT_TRUE(UnixAddress::parse(std::string(kRoom - 1, 'x')));
  EXPECT_FALSE(UnixAddress::parse(std::string(kRoom, 'x')));
  EXPECT_FALSE(UnixAddress::parse("@" + std::string(kRoom - 1, 'x')));
}

TEST(V4Mapped, GoesBothWays) {
  constexpr std::array<std::uint8_t, 4> v4 = {192, 0, 2, 1};
  in6_addr v6{};
  ::inet_pton(AF_INET6, "::ffff:192.0.2.1", &v6);
  const Address16 octets = to_address16(v4);
  EXPECT_EQ(octets, to_address16(v6.s6_addr));
  ASSERT_NE(v4_of(octets.data()), nullptr);
  EXPECT_TRUE(std::equal(v4.begin(), v4.end(), v4_of(octets.data())));
  ::inet_pton(AF_INET6, "2001:db8::ffff:192.0.2.1", &v6);
  EXPECT_EQ(v4_of(&v6), nullptr);
  ::inet_pton(AF_INET6, "::192.0.2.1", &v6);
  EXPECT_EQ(v4_of(&v6), nullptr);
}

TEST(SocketOptions, TellWhatTheSocketHas) {
  const UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(get_option<int>(fd.get(), SOL_SOCKET, SO_DOMAIN), AF_UNIX);
  EXPECT_TRUE(set_option(fd.get(), SOL_SOCKET, SO_PASSCRED, 1));
  EXPECT_EQ(get_option<int>(fd.get(), SOL_SOCKET, SO_PASSCRED), 1);
  EXPECT_EQ(pending_error(fd.get()), 0);
  EXPECT_NE(netns_cookie(fd.get()), 0u);
  EXPECT_FALSE(get_option<int>(-1, SOL_SOCKET, SO_DOMAIN));
  EXPECT_EQ(netns_cookie(-1), 0u);
}

TEST(InNetns, WhatIsNoNamespaceIsNotEntered) {
  const InNetns inside(-1);
  EXPECT_FALSE(inside.entered());
}

TEST(Log, HandsSentencesToItsSink) {
  std::vector<std::string> lines;
  const Log log([&](LogLevel level, std::string_view line) {
    lines.push_back(std::to_string(static_cast<int>(level)) + std::string(line));
  });
  log.info("{} and {}", 1, "two");
  log.warn("{}", "braces {} of others stay as they are");
  log.error("three");
  EXPECT_EQ(lines, (std::vector<std::string>{"01 and two", "1braces {} of others stay as they are",
                                             "2three"}));
}

TEST(Log, ASentenceThatDoesNotFitIntoMemoryIsItsForm) {
  std::string line;
  const Log log([&](LogLevel, std::string_view text) {
    if (text.find('{') == std::string_view::npos) throw std::bad_alloc();
    line = text;
  });
  log.warn("{} are lost", 3);
  EXPECT_EQ(line, "{} are lost");
}

TEST(Printable, LeavesNothingThatATerminalObeys) {
  EXPECT_EQ(printable("eth0: the filter was gone"), "eth0: the filter was gone");
  EXPECT_EQ(printable("\x1b[2Jeth0\r\x7f"), "?[2Jeth0??");
  EXPECT_EQ(printable("\xc2\x9b"
                      "31m"),
            "??31m");
  EXPECT_EQ(printable("/etc/psp/gr\xc3\xbc\xc3\x9f"
                      "e.conf"),
            "/etc/psp/gr\xc3\xbc\xc3\x9f"
            "e.conf");
}

}  // namespace
}  // namespace psp
