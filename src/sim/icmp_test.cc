// SPDX-License-Identifier: Apache-2.0
//
// ICMP errors as packets: what is made about a segment is read again, also if it quotes no more of
// it than Linux needs; what is damaged, too short or about another protocol is not. The oracle is
// the segment that they are about. What a host does with them is in tcp_options_test.cc.
#include "icmp.hh"

#include <cerrno>
#include <gtest/gtest.h>

namespace psp::sim {
namespace {

Octets packet_of(unsigned family) {
  Segment segment;
  segment.tuple.family = family;
  segment.tuple.local.octets[3] = 1;
  segment.tuple.remote.octets[3] = 2;
  segment.tuple.local_port = 4711;
  segment.tuple.remote_port = 443;
  segment.seq = 0xffffff00;
  segment.payload.resize(1000);
  const Octets frame = cut(build(segment)).front();
  return {frame.begin() + kEthernet, frame.end()};
}

std::span<const std::uint8_t> ip_of(const Octets& frame) {
  return std::span(frame).subspan(kEthernet);
}

class IcmpTest : public testing::TestWithParam<unsigned> {};

TEST_P(IcmpTest, IsReadAsItWasWritten) {
  const unsigned family = GetParam();
  const Octets packet = packet_of(family);
  const std::size_t header = family == 4 ? 20 : 40;
  for (const std::size_t quoted : {header + 8, header + 28, std::size_t{548}}) {
    const Octets made = build_icmp(too_big_for(family, 1400), packet, quoted);
    const auto read = parse_icmp(ip_of(made));
    ASSERT_TRUE(read);
    EXPECT_TRUE(read->is_too_big());
    EXPECT_EQ(read->mtu, 1400u);
    EXPECT_EQ(read->tuple, *parse_tuple(packet));
    EXPECT_EQ(read->seq, 0xffffff00u);
    EXPECT_EQ(quote_of(ip_of(made)).size(), quoted);
  }
}

TEST_P(IcmpTest, WhatQuotesTooLittleIsNotRead) {
  const std::size_t header = GetParam() == 4 ? 20 : 40;
  const Octets made = build_icmp(too_big_for(GetParam(), 1400), packet_of(GetParam()), header + 7);
  EXPECT_FALSE(parse_icmp(ip_of(made)));
}

TEST_P(IcmpTest, AnyBitThatIsTurnedOverIsSeen) {
  const Octets made = build_icmp(too_big_for(GetParam(), 1400), packet_of(GetParam()), 60);
  const std::size_t first = kEthernet + (GetParam() == 4 ? 20 : 40);
  for (std::size_t bit = 8 * first; bit < 8 * made.size(); ++bit) {
    Octets changed = made;
    changed[bit / 8] ^= static_cast<std::uint8_t>(1u << bit % 8);
    EXPECT_FALSE(parse_icmp(ip_of(changed))) << bit;
  }
}

TEST_P(IcmpTest, OneAboutUdpIsNotForTcp) {
  Octets packet = packet_of(GetParam());
  packet[GetParam() == 4 ? 9 : 6] = 17;
  EXPECT_FALSE(parse_icmp(ip_of(build_icmp(too_big_for(GetParam(), 1400), packet, 100))));
}

INSTANTIATE_TEST_SUITE_P(Families, IcmpTest, testing::Values(4u, 6u));

TEST(IcmpErrorTest, HasTheNumbersThatLinuxGivesApplications) {
  IcmpError error{.type = 3, .code = 3, .tuple = {}};
  EXPECT_EQ(error.error(), ECONNREFUSED);
  error.code = 16;
  EXPECT_EQ(error.error(), 0);
  error = {.type = 1, .code = 4, .tuple = {.family = 6}};
  EXPECT_EQ(error.error(), ECONNREFUSED);
  error.type = 2;
  EXPECT_TRUE(error.is_too_big());
}

}  // namespace
}  // namespace psp::sim
