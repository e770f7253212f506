// SPDX-License-Identifier: Apache-2.0
//
// Segments become packets and segments again; what is cut is joined again. The oracle is the
// segment that went in, and content that is known octet by octet.
//
// Each single bit behind the IP header is turned over, and must be seen: a model that takes damaged
// segments would call the product broken. Packets are of our own making: that Linux builds them the
// same way is not shown here.
#include "packet.hh"

#include <gtest/gtest.h>

#include "content.hh"

namespace psp::sim {
namespace {

Segment segment_of(unsigned family, std::size_t size) {
  Segment segment;
  segment.tuple.family = family;
  segment.tuple.local.octets[3] = 1;
  segment.tuple.remote.octets[3] = 2;
  segment.tuple.local_port = 4711;
  segment.tuple.remote_port = 443;
  segment.seq = 0xffffff00;
  segment.ack_seq = 5;
  segment.ack = true;
  segment.window = 1000;
  segment.payload.resize(size);
  write_content(3, 0, segment.payload);
  return segment;
}

std::span<const std::uint8_t> ip_of(const Octets& frame) {
  return std::span(frame).subspan(kEthernet);
}

class PacketTest : public testing::TestWithParam<unsigned> {};

TEST_P(PacketTest, IsReadAsItWasWritten) {
  Segment segment = segment_of(GetParam(), 100);
  segment.options = {.timestamps = true, .value = 7, .echo = 8};
  segment.reserved = GetParam() == 4;
  const auto packets = cut(build(segment));
  ASSERT_EQ(packets.size(), 1u);
  const auto read = parse_segment(ip_of(packets[0]), true);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->tuple, segment.tuple);
  EXPECT_EQ(read->seq, segment.seq);
  EXPECT_EQ(read->payload, segment.payload);
  EXPECT_TRUE(ip_checksum_ok(ip_of(packets[0])));
}

TEST_P(PacketTest, AnyBitThatIsTurnedOverIsSeen) {
  const auto packet = cut(build(segment_of(GetParam(), 20))).front();
  const std::size_t tcp = kEthernet + (GetParam() == 4 ? 20 : 40);
  for (std::size_t bit = 8 * tcp; bit < 8 * packet.size(); ++bit) {
    Octets changed = packet;
    changed[bit / 8] ^= static_cast<std::uint8_t>(1u << bit % 8);
    EXPECT_FALSE(parse_segment(ip_of(changed), true)) << bit;
  }
}

TEST_P(PacketTest, WhatIsCutIsJoinedAgain) {
  Segment segment = segment_of(GetParam(), 10000);
  segment.gso_size = 1448;
  segment.psh = true;
  const auto packets = cut(build(segment));
  ASSERT_EQ(packets.size(), 7u);
  Skb train;
  train.octets = packets[0];
  for (std::size_t i = 1; i < packets.size(); ++i) ASSERT_TRUE(join_next(train, packets[i])) << i;
  const auto read = parse_segment(ip_of(train.octets), false);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->payload, segment.payload);
  EXPECT_TRUE(read->psh);
  EXPECT_EQ(train.gso_size, 1448);
  EXPECT_FALSE(join_next(train, packets[1])) << "it does not follow";
}

INSTANTIATE_TEST_SUITE_P(Families, PacketTest, testing::Values(4u, 6u));

TEST(Content, HasTheMarkInAnyTwentyThreeOctets) {
  Octets octets(64);
  write_content(77, 1234567, octets);
  for (std::size_t at = 0; at + 23 <= octets.size(); ++at)
    EXPECT_NE(memmem(octets.data() + at, 23, kMark.data(), kMark.size()), nullptr);
}

}  // namespace
}  // namespace psp::sim
