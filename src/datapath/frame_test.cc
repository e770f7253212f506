// SPDX-License-Identifier: Apache-2.0
//
// What a frame is taken for, the parser of clear TCP frames, and the hash behind source ports.
// Frames that are cut short or damaged anywhere must be refused, never read beyond their end. They
// are built by hand (path_test_support.hh); SipHash is compared with the values of its paper.
// Frames of a real TAP: kernel/tap_test.cc and tests/netns; arbitrary octets: fuzz/frame_fuzz.cc.
#include "frame.hh"

#include "path_test_support.hh"
#include "siphash.hh"

namespace psp::datapath::test {
namespace {

TEST(Classify, TakesTaggedTcpForTheStacks) {
  for (const unsigned family : {4u, 6u})
    for (const bool reserved : {false, true})
      for (const std::uint8_t kind : {PSP_FRAME_SEAL, PSP_FRAME_SPAN, PSP_FRAME_CLEAR})
        EXPECT_EQ(classify(build_frame({.family = family, .reserved = reserved, .kind = kind})),
                  FrameKind::kTx);
}

TEST(Classify, IgnoresTcpWithoutTag) {
  for (const unsigned kind : {0x00u, 0x12u, 0x16u, 0x80u, 0xdeu})
    EXPECT_EQ(classify(build_frame({.kind = static_cast<std::uint8_t>(kind)})), FrameKind::kOther);
}

TEST(Classify, TakesUdpToThePspPortForTheWires) {
  for (const unsigned family : {4u, 6u}) {
    Octets frame = build_frame({.family = family, .reserved = false});
    frame[kIpAt + (family == 4 ? 9 : 6)] = wire::kProtocolUdp;
    std::uint8_t* port = frame.data() + kIpAt + (family == 4 ? 20 : 40) + 2;
    wire::store_be<std::uint16_t>(port, 1000);
    EXPECT_EQ(classify(frame), FrameKind::kRx);
    wire::store_be<std::uint16_t>(port, 1001);
    EXPECT_EQ(classify(frame), FrameKind::kOther);
  }
}

TEST(Classify, SurvivesEveryLength) {
  const Octets frame = build_frame({.family = 6});
  for (std::size_t size = 0; size < frame.size(); ++size) {
    const Octets cut(frame.begin(), frame.begin() + static_cast<long>(size));
    classify(cut);
    EXPECT_FALSE(parse_tcp_frame(cut)) << size;
  }
}

TEST(ParseTcpFrame, FindsThePartsOfEveryForm) {
  for (const unsigned family : {4u, 6u})
    for (const bool reserved : {false, true})
      for (std::size_t options = 0; options <= 40; options += 4) {
        const TcpSpec spec{
            .family = family, .payload = 77, .reserved = reserved, .tcp_options = options};
        const Octets frame = build_frame(spec);
        const auto tcp = parse_tcp_frame(frame);
        ASSERT_TRUE(tcp);
        EXPECT_EQ(tcp->reserved, reserved);
        EXPECT_EQ(tcp->ip.header_length, family == 4 ? 20 : 40);
        EXPECT_EQ(tcp->tcp_length, 20 + options);
        EXPECT_EQ(tcp->payload_at, headers_length(spec));
        EXPECT_EQ(tcp->payload_length, 77u);
        EXPECT_EQ(tcp->sequence, spec.sequence);
      }
}

TEST(ParseTcpFrame, KeepsOptionsThatAreNotTheReservation) {
  Octets ipv4 = build_frame({});
  ipv4[kIpAt + 40] = 0;  // one octet is not NOP
  ipv4[kTagAt + 1] = 0;
  auto tcp = parse_tcp_frame(ipv4);
  ASSERT_TRUE(tcp);
  EXPECT_FALSE(tcp->reserved);
  EXPECT_EQ(tcp->ip.header_length, 60);

  Octets ipv6 = build_frame({.family = 6});
  ipv6[kIpAt + 6] = 60;  // destination options: nothing that a socket with an association sends
  EXPECT_FALSE(parse_tcp_frame(ipv6));
}

TEST(ParseTcpFrame, RefusesWhatCannotBeSealed) {
  const auto refused = [](auto change) {
    Octets frame = build_frame({.reserved = false});
    change(frame);
    const auto tcp = parse_tcp_frame(frame);
    return !tcp && tcp.error() == Drop::TX_BAD_PACKET;
  };
  EXPECT_FALSE(refused([](Octets&) {}));
  EXPECT_TRUE(refused([](Octets& f) { f[kIpAt + 6] = 0x20; })) << "fragment";
  EXPECT_TRUE(refused([](Octets& f) { f[kIpAt + 9] = 17; })) << "UDP";
  EXPECT_TRUE(refused([](Octets& f) { f[kIpAt + 3] = 0xff; })) << "longer than the frame";
  EXPECT_TRUE(refused([](Octets& f) { f[kIpAt + 20 + 12] = 0x40; })) << "TCP header of 16";
  EXPECT_TRUE(refused([](Octets& f) { f[1] = kGsoTcp6; })) << "GSO type of the other family";
  EXPECT_TRUE(refused([](Octets& f) { f[1] = kGsoTcp4; })) << "GSO without size";
}

TEST(PacketBuffer, ThatThereIsNoMemoryForEndsNothingElse) {
  const volatile std::size_t too_much = SIZE_MAX / 2;
  EXPECT_THROW(PacketBuffer{too_much}, std::bad_alloc);
}

TEST(SipHash, MatchesItsPaper) {
  SipKey key;
  std::uint8_t octets[16];
  for (int i = 0; i < 16; ++i) octets[i] = static_cast<std::uint8_t>(i);
  key[0] = detail::load_le(octets, 8);
  key[1] = detail::load_le(octets + 8, 8);
  EXPECT_EQ(siphash(key, std::span(octets, 15)), 0xa129ca6149be45e5u);
  EXPECT_EQ(siphash(key, {}), 0x726fdb47dd0e0e31u);
}

}  // namespace
}  // namespace psp::datapath::test
