// SPDX-License-Identifier: Apache-2.0
//
// Who loses his slot when strangers take too many. A caller is one end of a socketpair: it sees its
// connection end as a stranger would, and no handshake is needed.
//
// The threat is a flood that costs its sender nothing: connections without a word, or with one
// octet, from one address or from a whole IPv6 network. The log must not be flooded either. Rates
// are left to chance in the code, so their tests have bounds that chance does not reach.
#include "half_open.hh"

#include <algorithm>
#include <arpa/inet.h>
#include <cstring>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <poll.h>
#include <vector>

#include "base/unique_fd.hh"

namespace psp::proxy {
namespace {

using testing::HasSubstr;
constexpr HalfOpenLimits kNoSourceLimit{.start = 4, .rate = 100, .full = 4, .each = 100};

SocketAddress address(const std::string& text) {
  SocketAddress out;
  sockaddr_in6 in6{};
  in6.sin6_family = AF_INET6;
  EXPECT_EQ(inet_pton(AF_INET6, text.c_str(), &in6.sin6_addr), 1) << text;
  out.size = sizeof in6;
  std::memcpy(&out.storage, &in6, sizeof in6);
  return out;
}

// Caller is a connection that asks for a slot; ended() tells that its socket was shut down.
struct Caller {
  Caller(HalfOpen& half_open, const std::string& from) {
    int pair[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    ours = UniqueFd(pair[0]);
    theirs = UniqueFd(pair[1]);
    slot = half_open.admit(address(from), ours.get());
  }
  bool ended() const {
    pollfd p{theirs.get(), POLLIN, 0};
    return poll(&p, 1, 0) == 1 && (p.revents & POLLHUP) != 0;
  }
  UniqueFd ours, theirs;
  std::unique_ptr<HalfOpen::Slot> slot;
};

TEST(HalfOpen, TheOldestThatIsSilentGoesFirst) {
  HalfOpen half_open(kNoSourceLimit);
  std::vector<Caller> callers;
  for (int i = 1; i <= 4; ++i)
    callers.emplace_back(half_open, "2001:db8:0:" + std::to_string(i) + "::1");
  callers[0].slot->spoke();
  const Caller fifth(half_open, "2001:db8:0:5::1");
  ASSERT_NE(fifth.slot, nullptr);
  EXPECT_FALSE(callers[0].ended() || callers[0].slot->dropped()) << "it has spoken";
  EXPECT_TRUE(callers[1].ended() && callers[1].slot->dropped());
  EXPECT_FALSE(callers[2].ended() || callers[3].ended() || fifth.ended());
}

// A word costs a stranger nothing: who says one to each slot shall not keep others out.
TEST(HalfOpen, WhereAllHaveSpokenTheOldestGoes) {
  HalfOpen half_open(kNoSourceLimit);
  std::vector<Caller> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back(half_open, "2001:db8::1");
    callers.back().slot->spoke();
  }
  const Caller fifth(half_open, "2001:db8:1::1");
  ASSERT_NE(fifth.slot, nullptr);
  EXPECT_TRUE(callers[0].ended() && callers[0].slot->dropped());
  EXPECT_FALSE(callers[1].ended() || callers[2].ended() || callers[3].ended() || fifth.ended());
  callers.pop_back();
  const Caller sixth(half_open, "2001:db8:1::1");
  EXPECT_FALSE(callers[1].ended() || fifth.ended()) << "a slot that is given up is free";
}

TEST(HalfOpen, OneSourceTakesNoPlaceFromAnother) {
  HalfOpen half_open({.start = 100, .rate = 100, .full = 100, .each = 2});
  const Caller other(half_open, "::ffff:192.0.2.2");
  std::vector<Caller> flood;
  for (int i = 0; i < 1000; ++i) flood.emplace_back(half_open, "::ffff:192.0.2.1");
  EXPECT_FALSE(other.ended());
  int dropped = 0;
  for (const Caller& caller : flood) dropped += caller.slot->dropped();
  EXPECT_EQ(dropped, 998);
  for (Caller& caller : flood) caller.slot->spoke();
  const Caller more(half_open, "::ffff:192.0.2.1"), third(half_open, "::ffff:192.0.2.3");
  EXPECT_TRUE(flood[998].slot->dropped()) << "its own talker";
  EXPECT_FALSE(other.ended() || third.ended());
}

TEST(HalfOpen, AnIpv6SourceIsANetworkOf64Bits) {
  HalfOpen half_open({.start = 100, .rate = 100, .full = 100, .each = 1});
  const Caller first(half_open, "2001:db8:1:2:3::1"), neighbour(half_open, "2001:db8:1:3::1");
  EXPECT_FALSE(first.ended());
  const Caller same(half_open, "2001:db8:1:2:ffff::9");
  EXPECT_TRUE(first.ended());
  EXPECT_FALSE(neighbour.ended() || same.ended());
}

TEST(HalfOpen, FromStartOnSomeGoAndFromFullOnOneForEach) {
  HalfOpen half_open({.start = 100, .rate = 30, .full = 200, .each = 1'000'000});
  std::vector<Caller> callers;
  callers.reserve(2000);
  const auto dropped = [&] {
    return std::ranges::count_if(callers, [](const Caller& c) { return c.slot->dropped(); });
  };
  for (int i = 0; i < 100; ++i) callers.emplace_back(half_open, "2001:db8::1");
  EXPECT_EQ(dropped(), 0);
  for (int i = 0; i < 60; ++i) callers.emplace_back(half_open, "2001:db8::1");
  EXPECT_GT(dropped(), 0) << "30 to 70 percent";
  EXPECT_LT(dropped(), 60);
  for (int i = 0; i < 1800; ++i) callers.emplace_back(half_open, "2001:db8::1");
  EXPECT_LE(static_cast<long>(callers.size()) - dropped(), 200);
}

TEST(HalfOpen, TheLogHasALineWhenItBeginsAndOneWhenItIsOver) {
  HalfOpen half_open({.start = 100, .rate = 100, .full = 100, .each = 1});
  EXPECT_FALSE(half_open.news());
  std::vector<Caller> flood;
  std::vector<std::string> lines;
  for (int second = 0; second < 20; ++second) {
    if (second < 5)
      for (int i = 0; i < 50; ++i) flood.emplace_back(half_open, "::ffff:192.0.2.1");
    if (auto news = half_open.news()) lines.push_back(*news);
  }
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_THAT(lines[0], HasSubstr("for example from 192.0.2.1"));
  EXPECT_THAT(lines[1], HasSubstr("before that 249 were"));
  int logged = 0;
  for (int i = 0; i < 1000; ++i) logged += half_open.may_log();
  EXPECT_LT(logged, 50);
}

TEST(HalfOpen, LimitsAreReadAsSshdReadsThem) {
  const auto limits = parse_start_rate_full("10:30:100", {});
  ASSERT_TRUE(limits.has_value());
  EXPECT_EQ(limits->start, 10u);
  EXPECT_EQ(limits->rate, 30u);
  EXPECT_EQ(limits->full, 100u);
  for (const char* text :
       {"", "10", "10:30", "10:30:100:1", "10:30:9", "0:30:9", "1:0:9", "1:101:9", "1:1:2000000",
        "-1:30:100", "a:b:c", "10:30:", "10:30:4294967297"})
    EXPECT_FALSE(parse_start_rate_full(text, {}).has_value()) << text;
}

}  // namespace
}  // namespace psp::proxy
