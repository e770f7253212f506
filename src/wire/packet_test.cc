// SPDX-License-Identifier: Apache-2.0
//
// IP, UDP and PSP together: where the parts of a packet lie, what is refused and why, truncation at
// every length, and that what is written is read back. Packets are put together octet by octet
// here; a sealed one has its content in clear and an ICV that is made up, since nothing in this
// layer has a key. Random packets, and good ones with octets spoilt, must never lead beyond their
// end. Real sealing: crypto/seal_test.cc; packets of the reference implementation:
// crypto/vectors_test.cc.
#include "wire/packet.hh"

#include <cstdint>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <span>
#include <vector>

#include "wire/bytes.hh"
#include "wire/checksum.hh"

namespace psp::wire {
namespace {

using Octets = std::vector<std::uint8_t>;

// clear_ipv4 is an IPv4 packet with `options` octets of options (NOP) and `payload` octets of TCP.
Octets clear_ipv4(std::size_t payload, std::size_t options = 0) {
  const std::size_t header = kIpv4Header + options;
  Octets packet(header + payload, 0x01);
  packet[0] = static_cast<std::uint8_t>(0x40 | header / 4);
  packet[1] = 0x02;                                    // ECT(0)
  store_be(packet.data() + 4, std::uint16_t{0xbeef});  // identification
  store_be(packet.data() + 6, std::uint16_t{0x4000});  // DF
  packet[8] = 63;
  for (std::size_t i = 0; i < payload; ++i) packet[header + i] = static_cast<std::uint8_t>(i);
  set_ip_payload(packet, {.family = 4, .header_length = static_cast<std::uint16_t>(header)},
                 payload, kProtocolTcp);
  return packet;
}

Octets clear_ipv6(std::size_t payload) {
  Octets packet(kIpv6Header + payload, 0x01);
  packet[0] = 0x60;
  for (std::size_t i = 0; i < payload; ++i) packet[kIpv6Header + i] = static_cast<std::uint8_t>(i);
  set_ip_payload(packet, {.family = 6, .header_length = kIpv6Header}, payload, kProtocolTcp);
  return packet;
}

// sealed_outline is the PSP packet for `clear` with the inner packet in clear and a made-up ICV:
// all that matters here, where nothing has a key.
Octets sealed_outline(const Octets& clear, const EncapOptions& options = {.spi = {7}, .iv = 9}) {
  Octets packet(sealed_size(clear.size(), options.cookie.has_value()), 0xcc);
  const auto psp = write_outer(clear, options, packet);
  EXPECT_TRUE(psp);
  return packet;
}

// fix_checksum makes the IPv4 header checksum right after a test changed the header.
void fix_checksum(Octets& packet) {
  store_be(packet.data() + 10, std::uint16_t{0});
  const auto sum =
      checksum_fold(checksum_add(0, std::span<const std::uint8_t>(packet).first(kIpv4Header)));
  store_be(packet.data() + 10, static_cast<std::uint16_t>(~sum));
}

TEST(ParseIp, ReadsIpv4WithOptions) {
  const auto ip = parse_ip(clear_ipv4(30, 12));
  ASSERT_TRUE(ip);
  EXPECT_EQ(ip->family, 4);
  EXPECT_EQ(ip->protocol, kProtocolTcp);
  EXPECT_EQ(ip->header_length, 32);
  EXPECT_EQ(ip->total_length, 62u);
  EXPECT_FALSE(ip->fragment);
}

TEST(ParseIp, ReadsIpv6) {
  const auto ip = parse_ip(clear_ipv6(30));
  ASSERT_TRUE(ip);
  EXPECT_EQ(ip->family, 6);
  EXPECT_EQ(ip->protocol, kProtocolTcp);
  EXPECT_EQ(ip->header_length, 40);
  EXPECT_EQ(ip->total_length, 70u);
  EXPECT_FALSE(ip->fragment);
}

TEST(ParseIp, AllowsPaddingBehindThePacket) {
  auto packet = clear_ipv4(6);
  packet.resize(46, 0);
  const auto ip = parse_ip(packet);
  ASSERT_TRUE(ip);
  EXPECT_EQ(ip->total_length, 26u);
}

TEST(ParseIp, SeesFragments) {
  auto packet = clear_ipv4(32);
  for (const std::uint16_t field : {0x2000, 0x0001, 0x1fff, 0x3fff}) {
    store_be(packet.data() + 6, field);
    EXPECT_TRUE(parse_ip(packet)->fragment) << field;
  }
  store_be(packet.data() + 6, std::uint16_t{0xc000});  // reserved bit and DF
  EXPECT_FALSE(parse_ip(packet)->fragment);
  auto ipv6 = clear_ipv6(32);
  ipv6[6] = 44;
  EXPECT_TRUE(parse_ip(ipv6)->fragment);
}

TEST(ParseIp, RefusesWhatIsNotIp) {
  EXPECT_EQ(parse_ip({}).error(), Drop::TRUNCATED);
  for (unsigned version = 0; version < 16; ++version) {
    auto packet = clear_ipv4(40);
    packet[0] = static_cast<std::uint8_t>(version << 4 | 5);
    if (version == 4 || version == 6) continue;
    EXPECT_EQ(parse_ip(packet).error(), Drop::BAD_IP) << version;
  }
}

TEST(ParseIp, RefusesBadLengths) {
  auto packet = clear_ipv4(20);
  packet[0] = 0x44;  // 16 octets of header
  EXPECT_EQ(parse_ip(packet).error(), Drop::BAD_IP);
  packet[0] = 0x4f;  // 60 octets of header
  EXPECT_EQ(parse_ip(packet).error(), Drop::TRUNCATED);
  packet[0] = 0x45;
  store_be(packet.data() + 2, std::uint16_t{19});
  EXPECT_EQ(parse_ip(packet).error(), Drop::BAD_LENGTH);
  store_be(packet.data() + 2, std::uint16_t{41});
  EXPECT_EQ(parse_ip(packet).error(), Drop::BAD_LENGTH);
  auto ipv6 = clear_ipv6(20);
  store_be(ipv6.data() + 4, std::uint16_t{21});
  EXPECT_EQ(parse_ip(ipv6).error(), Drop::BAD_LENGTH);
}

TEST(SetIpPayload, KeepsTheRestOfTheHeaderAndItsChecksumRight) {
  auto packet = clear_ipv4(100, 8);
  const auto before = packet;
  set_ip_payload(packet, *parse_ip(packet), 60, kProtocolUdp);
  EXPECT_EQ(load_be<std::uint16_t>(packet.data() + 2), 28 + 60);
  EXPECT_EQ(packet[9], kProtocolUdp);
  const auto header = std::span<const std::uint8_t>(packet).first(28);
  EXPECT_EQ(checksum_fold(checksum_add(0, header)), 0xffff);
  set_ip_payload(packet, *parse_ip(packet), 100, kProtocolTcp);
  EXPECT_EQ(packet, before);
}

TEST(ParsePacket, FindsThePartsInBothFamilies) {
  for (const auto& clear : {clear_ipv4(100), clear_ipv4(100, 40), clear_ipv6(100)}) {
    const std::size_t ip_header = clear.size() - 100;
    const auto packet = sealed_outline(clear);
    const auto psp = parse_packet(packet);
    ASSERT_TRUE(psp);
    EXPECT_EQ(psp->ip.protocol, kProtocolUdp);
    EXPECT_EQ(psp->ip.header_length, ip_header);
    EXPECT_EQ(psp->psp_offset, ip_header + 8);
    EXPECT_EQ(psp->inner_offset, ip_header + 24);
    EXPECT_EQ(psp->icv_offset, ip_header + 124);
    EXPECT_EQ(psp->header.next_header, kProtocolTcp);
    EXPECT_EQ(psp->header.spi.value, 7u);
    EXPECT_EQ(psp->header.iv, 9u);
  }
}

TEST(ParsePacket, DoesNotTakePaddingForTheIcv) {
  auto packet = sealed_outline(clear_ipv4(0));
  packet.resize(packet.size() + 11, 0);
  const auto psp = parse_packet(packet);
  ASSERT_TRUE(psp);
  EXPECT_EQ(psp->icv_offset, 44u);
}

TEST(ParsePacket, IsRefusedAtEveryShorterLength) {
  for (const auto& clear : {clear_ipv4(20), clear_ipv6(20)}) {
    const auto whole = sealed_outline(clear);
    for (std::size_t length = 0; length < whole.size(); ++length) {
      const Octets cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
      EXPECT_FALSE(parse_packet(cut)) << length;
    }
    ASSERT_TRUE(parse_packet(whole));
  }
}

TEST(ParsePacket, IsTruncatedWhenItsHonestLengthsAreTooShort) {
  // The length fields are right for the shorter packet: it is the PSP header that has no room.
  for (std::size_t payload = 0; payload <= 64; ++payload) {
    auto packet = clear_ipv4(payload);
    packet[9] = kProtocolUdp;
    fix_checksum(packet);
    std::uint8_t* udp = packet.data() + kIpv4Header;
    if (payload >= kUdpHeader) {
      store_be(udp + 2, kUdpPort);
      store_be(udp + 4, static_cast<std::uint16_t>(payload));
    }
    if (payload >= kUdpHeader + kPspBaseHeader)
      write_header(std::span(packet).subspan(28), PspHeader{.spi = {1}});
    const auto psp = parse_packet(packet);
    if (payload < kUdpHeader + kPspBaseHeader + kIcv)
      EXPECT_EQ(psp.error(), Drop::TRUNCATED) << payload;
    else
      EXPECT_TRUE(psp) << payload;
  }
}

TEST(ParsePacket, RefusesWhatIsNotPspWithTheReason) {
  const auto good = sealed_outline(clear_ipv4(20));
  auto packet = good;
  packet[9] = kProtocolTcp;
  fix_checksum(packet);
  EXPECT_EQ(parse_packet(packet).error(), Drop::BAD_IP) << "not UDP";

  packet = good;
  store_be(packet.data() + 22, std::uint16_t{1001});
  EXPECT_EQ(parse_packet(packet).error(), Drop::BAD_IP) << "another port";

  packet = good;
  store_be(packet.data() + 6, std::uint16_t{0x2000});
  fix_checksum(packet);
  EXPECT_EQ(parse_packet(packet).error(), Drop::FRAGMENT) << "first fragment";

  packet = good;
  packet[8] ^= 0x40;  // TTL damaged, checksum as before
  EXPECT_EQ(parse_packet(packet).error(), Drop::BAD_IP) << "header checksum";

  for (const int change : {-1, 1}) {
    packet = good;
    const auto length = load_be<std::uint16_t>(packet.data() + 24);
    store_be(packet.data() + 24, static_cast<std::uint16_t>(length + change));
    EXPECT_EQ(parse_packet(packet).error(), Drop::BAD_LENGTH) << "UDP length";
  }

  packet = good;
  packet[28 + 1] = 0;
  EXPECT_EQ(parse_packet(packet).error(), Drop::BAD_HEADER) << "PSP header length";
}

TEST(ParsePacket, AcceptsAnyUdpChecksum) {
  auto packet = sealed_outline(clear_ipv6(20));
  store_be(packet.data() + 46, std::uint16_t{0x1234});
  EXPECT_TRUE(parse_packet(packet));
}

TEST(WriteOuter, KeepsTheIpHeaderButForLengthProtocolAndChecksum) {
  const auto clear = clear_ipv4(50, 4);
  auto packet = sealed_outline(clear);
  ASSERT_EQ(packet.size(), clear.size() + 40);
  set_ip_payload(packet, *parse_ip(clear), 50, kProtocolTcp);
  EXPECT_EQ(Octets(packet.begin(), packet.begin() + 24), Octets(clear.begin(), clear.begin() + 24));
}

TEST(WriteOuter, WritesTheUdpHeader) {
  const auto packet = sealed_outline(clear_ipv6(50), {.spi = {7}, .source_port = 0xabcd});
  const std::uint8_t* udp = packet.data() + kIpv6Header;
  EXPECT_EQ(load_be<std::uint16_t>(udp), 0xabcd);
  EXPECT_EQ(load_be<std::uint16_t>(udp + 2), 1000);
  EXPECT_EQ(load_be<std::uint16_t>(udp + 4), 8 + 16 + 50 + 16);
  EXPECT_EQ(load_be<std::uint16_t>(udp + 6), 0);
}

TEST(WriteOuter, DropsPaddingBehindTheClearPacket) {
  auto clear = clear_ipv4(6);
  clear.resize(46, 0xaa);
  Octets out(100);
  const auto psp = write_outer(clear, {.spi = {7}}, out);
  ASSERT_TRUE(psp);
  EXPECT_EQ(psp->icv_offset + kIcv, 26u + 40u);
  EXPECT_EQ(psp->ip.total_length, 66u);
}

TEST(WriteOuter, RefusesACryptOffsetBeyondTheEnd) {
  Octets out(200);
  EncapOptions options{.spi = {7}, .crypt_offset = {5}};
  EXPECT_TRUE(write_outer(clear_ipv4(20), options, out));
  options.crypt_offset = {6};
  EXPECT_EQ(write_outer(clear_ipv4(20), options, out).error(), Drop::BAD_CRYPT_OFFSET);
  options.cookie = 1;  // the cookie counts: 8 + 20
  EXPECT_TRUE(write_outer(clear_ipv4(20), options, out));
  options.crypt_offset = {8};
  EXPECT_EQ(write_outer(clear_ipv4(20), options, out).error(), Drop::BAD_CRYPT_OFFSET);
}

TEST(WriteOuter, SendsGmacWithoutCryptOffset) {
  Octets out(200);
  const auto psp = write_outer(
      clear_ipv4(20), {.version = Version::kAesGmac256, .spi = {7}, .crypt_offset = {63}}, out);
  ASSERT_TRUE(psp);
  EXPECT_EQ(out[psp->psp_offset + 2], 0);
}

TEST(WriteOuter, RefusesFragmentsAndWhatDoesNotFit) {
  auto clear = clear_ipv4(20);
  Octets out(80);
  EXPECT_TRUE(write_outer(clear, {.spi = {7}}, out));
  EXPECT_EQ(write_outer(clear, {.spi = {7}}, std::span(out).first(79)).error(),
            Drop::TX_BAD_PACKET);
  EXPECT_EQ(write_outer(clear, {.spi = {7}}, {}).error(), Drop::TX_BAD_PACKET);
  store_be(clear.data() + 6, std::uint16_t{0x2000});
  EXPECT_EQ(write_outer(clear, {.spi = {7}}, out).error(), Drop::TX_BAD_PACKET);
  EXPECT_EQ(write_outer({}, {.spi = {7}}, out).error(), Drop::TRUNCATED);
}

TEST(WriteOuter, StopsAtWhatALengthFieldCanSay) {
  Octets out(70000);
  EXPECT_TRUE(write_outer(clear_ipv4(65535 - 20 - 40), {.spi = {7}}, out));
  EXPECT_EQ(write_outer(clear_ipv4(65535 - 20 - 39), {.spi = {7}}, out).error(), Drop::TX_TOO_BIG);
  EXPECT_TRUE(write_outer(clear_ipv6(65535 - 40), {.spi = {7}}, out));
  EXPECT_EQ(write_outer(clear_ipv6(65535 - 39), {.spi = {7}}, out).error(), Drop::TX_TOO_BIG);
}

RC_GTEST_PROP(PacketProperty, WhatIsWrittenIsReadBack, ()) {
  const auto payload = *rc::gen::inRange<std::size_t>(0, 2000);
  const auto clear = *rc::gen::arbitrary<bool>()
                         ? clear_ipv6(payload)
                         : clear_ipv4(payload, 4 * *rc::gen::inRange<std::size_t>(0, 11));
  EncapOptions options;
  options.version = *to_version(*rc::gen::inRange(0u, 4u));
  options.spi = {*rc::gen::arbitrary<std::uint32_t>()};
  options.iv = *rc::gen::arbitrary<std::uint64_t>();
  options.source_port = *rc::gen::arbitrary<std::uint16_t>();
  if (*rc::gen::arbitrary<bool>()) options.cookie = *rc::gen::arbitrary<std::uint64_t>();
  options.crypt_offset = {*rc::gen::inRange<std::uint8_t>(0, 64)};

  Octets out(sealed_size(clear.size(), options.cookie.has_value()));
  const auto written = write_outer(clear, options, out);
  if (!written) {
    RC_ASSERT(written.error() == Drop::BAD_CRYPT_OFFSET);
    return;
  }
  const auto read = parse_packet(out);
  RC_ASSERT(read);
  RC_ASSERT(read->header == written->header);
  RC_ASSERT(read->ip.total_length == out.size());
  RC_ASSERT(read->ip.total_length == written->ip.total_length);
  RC_ASSERT(read->psp_offset == written->psp_offset);
  RC_ASSERT(read->inner_offset == written->inner_offset);
  RC_ASSERT(read->icv_offset == written->icv_offset);
  RC_ASSERT(read->icv_offset - read->inner_offset == payload);
}

RC_GTEST_PROP(PacketProperty, WhatParsesLiesInsideThePacket, ()) {
  // Start from a good packet and spoil some octets, so that the deeper checks are reached too.
  auto packet = sealed_outline(*rc::gen::arbitrary<bool>() ? clear_ipv6(40) : clear_ipv4(40, 8));
  const auto spoiled = *rc::gen::inRange(0, 6);
  for (int i = 0; i < spoiled; ++i)
    packet[*rc::gen::inRange<std::size_t>(0, 72)] = *rc::gen::arbitrary<std::uint8_t>();
  packet.resize(*rc::gen::inRange<std::size_t>(0, packet.size() + 1));
  const auto psp = parse_packet(packet);
  if (!psp) return;
  RC_ASSERT(psp->psp_offset + kPspBaseHeader <= psp->inner_offset);
  RC_ASSERT(psp->inner_offset <= psp->icv_offset);
  RC_ASSERT(psp->icv_offset + kIcv == psp->ip.total_length);
  RC_ASSERT(psp->ip.total_length <= packet.size());
}

RC_GTEST_PROP(PacketProperty, ArbitraryOctetsAreParsedOrDropped, (const Octets& octets)) {
  if (const auto psp = parse_packet(octets)) RC_ASSERT(psp->icv_offset + kIcv <= octets.size());
  if (const auto ip = parse_ip(octets)) RC_ASSERT(ip->total_length <= octets.size());
}

TEST(WriteOuter, TakesAnyProtocolButHeadersForRouters) {
  const auto four = clear_ipv4(20);
  const auto six = clear_ipv6(20);
  for (unsigned protocol = 0; protocol < 256; ++protocol) {
    auto clear = four;
    set_ip_payload(clear, *parse_ip(four), 20, static_cast<std::uint8_t>(protocol));
    Octets out(sealed_size(clear.size(), false));
    const auto packet = write_outer(clear, {}, out);
    ASSERT_TRUE(packet);
    EXPECT_EQ(packet->header.next_header, protocol);
    clear = six;
    clear[6] = static_cast<std::uint8_t>(protocol);
    out.resize(sealed_size(clear.size(), false));
    // Hop-by-hop and routing headers are for routers, a fragment is no packet.
    const bool wanted = protocol != 0 && protocol != 43 && protocol != 44;
    EXPECT_EQ(write_outer(clear, {}, out).has_value(), wanted) << protocol;
  }
}

}  // namespace
}  // namespace psp::wire
