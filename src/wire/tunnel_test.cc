// SPDX-License-Identifier: Apache-2.0
//
// Tunnel mode: outer headers field by field in all four combinations of families, the table of RFC
// 6040, and what is refused inside. The table is written out here a second time, row by row, and
// tried with inner and outer packets of both families. Sizes are tried at the last octet that fits
// and at the next. Contents are in clear here: sealed ones are in crypto/seal_test.cc.
#include "wire/tunnel.hh"

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

constexpr std::uint8_t kTos = 0xb8 | kEct0;  // EF, ECT(0)

// put_checksum makes the header checksum of an IPv4 packet right.
void put_checksum(Octets& packet) {
  store_be(packet.data() + 10, std::uint16_t{0});
  const auto header = std::span(packet).first((packet[0] & 15u) * 4);
  store_be(packet.data() + 10, static_cast<std::uint16_t>(~checksum_fold(checksum_add(0, header))));
}

Octets inner_ipv4(std::size_t payload, std::size_t options = 0) {
  const std::size_t header = kIpv4Header + options;
  Octets packet(header + payload, 0x01);
  packet[0] = static_cast<std::uint8_t>(0x40 | header / 4);
  packet[1] = kTos;
  store_be(packet.data() + 4, std::uint16_t{0xbeef});
  store_be(packet.data() + 6, std::uint16_t{0x4000});
  packet[8] = 63;
  for (std::uint8_t i = 0; i < 8; ++i) packet[12u + i] = static_cast<std::uint8_t>(0x10 + i);
  set_ip_payload(packet, {.family = 4, .header_length = static_cast<std::uint16_t>(header)},
                 payload, kProtocolUdp);
  put_checksum(packet);
  return packet;
}

Octets inner_ipv6(std::size_t payload) {
  Octets packet(kIpv6Header + payload, 0x01);
  store_be(packet.data(), 6u << 28 | std::uint32_t{kTos} << 20 | 0xabcdeu);
  packet[7] = 62;
  for (std::uint8_t i = 0; i < 32; ++i) packet[8u + i] = static_cast<std::uint8_t>(0x20 + i);
  set_ip_payload(packet, {.family = 6, .header_length = kIpv6Header}, payload, kProtocolUdp);
  return packet;
}

Octets inner_of(std::uint8_t family, std::size_t payload) {
  return family == 4 ? inner_ipv4(payload) : inner_ipv6(payload);
}

Endpoints ends(std::uint8_t family) {
  Endpoints endpoints{.family = family};
  endpoints.source.fill(0xa1);
  endpoints.destination.fill(0xb2);
  return endpoints;
}

std::uint8_t class_of(const Octets& packet) {
  return packet[0] >> 4 == 4
             ? packet[1]
             : static_cast<std::uint8_t>(load_be<std::uint32_t>(packet.data()) >> 20);
}

bool checksum_holds(const Octets& packet) {
  if (packet[0] >> 4 != 4) return true;
  return checksum_fold(checksum_add(0, std::span(packet).first((packet[0] & 15u) * 4))) == 0xffff;
}

struct Written {
  Octets out;
  PspPacket packet;
};

Written write(const Octets& clear, const TunnelPolicy& policy, EncapOptions options = {}) {
  options.spi = {7};
  options.source_port = 0x1234;
  const auto outer = outer_ip_of(clear, policy);
  Written written;
  if (!outer) {
    ADD_FAILURE() << name(outer.error());
    return written;
  }
  written.out.resize(sealed_size(clear.size(), options.cookie.has_value()) + outer->header_length(),
                     0xee);
  const auto packet = write_tunnel_outer(clear, options, *outer, written.out);
  if (!packet)
    ADD_FAILURE() << name(packet.error());
  else
    written.packet = *packet;
  return written;
}

TEST(Tunnel, WritesAllFourCombinationsOfFamilies) {
  for (const std::uint8_t inner : {4, 6}) {
    for (const std::uint8_t outer : {4, 6}) {
      SCOPED_TRACE(testing::Message() << int{inner} << " in " << int{outer});
      const auto clear = inner_of(inner, 100);
      const auto written = write(clear, {.endpoints = ends(outer)});
      EXPECT_EQ(written.out.size(), clear.size() + 40u + (outer == 4 ? 20 : 40));
      const auto read = parse_packet(written.out);
      ASSERT_TRUE(read) << name(read.error());
      EXPECT_EQ(read->ip.family, outer);
      EXPECT_EQ(read->header.next_header, inner == 4 ? kProtocolIpv4 : kProtocolIpv6);
      EXPECT_TRUE(is_tunnel(read->header.next_header));
      EXPECT_EQ(read->icv_offset - read->inner_offset, clear.size());
      EXPECT_EQ(read->inner_offset, written.packet.inner_offset);
      EXPECT_EQ(read->icv_offset, written.packet.icv_offset);
      EXPECT_TRUE(checksum_holds(written.out));
      EXPECT_EQ(written.out[outer == 4 ? 12 : 8], 0xa1);
      EXPECT_EQ(written.out[outer == 4 ? 16 : 24], 0xb2);
    }
  }
}

TEST(Tunnel, CopiesTheInnerHeaderWithoutAPolicy) {
  const auto four = inner_ipv4(10);
  const auto outer_four = write(four, {}).out;
  EXPECT_EQ(outer_four[0], 0x45);
  for (const std::size_t at : {1, 4, 5, 6, 7, 8, 12, 13, 14, 15, 16, 17, 18, 19})
    EXPECT_EQ(outer_four[at], four[at]) << at;
  const auto six = inner_ipv6(10);
  const auto outer_six = write(six, {}).out;
  for (std::size_t at = 0; at < kIpv6Header; ++at) {
    if (at < 4 || at > 6) {
      EXPECT_EQ(outer_six[at], six[at]) << at;
    }
  }
}

TEST(Tunnel, LeavesInnerOptionsInside) {
  const auto clear = inner_ipv4(10, 8);
  const auto written = write(clear, {});
  EXPECT_EQ(written.out[0], 0x45);
  EXPECT_EQ(written.packet.psp_offset, kIpv4Header + kUdpHeader);
  EXPECT_EQ(written.packet.icv_offset - written.packet.inner_offset, clear.size());
}

TEST(Tunnel, TakesFragmentsInsideAndMakesNone) {
  auto clear = inner_ipv4(16);
  store_be(clear.data() + 6, std::uint16_t{0x2007});  // more fragments, offset 56
  set_ip_payload(clear, {.family = 4, .header_length = 20}, 16, kProtocolUdp);
  const auto written = write(clear, {});
  EXPECT_EQ(load_be<std::uint16_t>(written.out.data() + 6), 0);
  EXPECT_TRUE(parse_packet(written.out));
}

TEST(Tunnel, FollowsThePolicy) {
  const TunnelPolicy policy{.endpoints = ends(4), .hop_limit = 64, .dscp = 0x0a, .copy_ecn = false};
  const auto out = write(inner_ipv6(10), policy).out;
  EXPECT_EQ(out[1], 0x0a << 2);
  EXPECT_EQ(out[8], 64);
  // Nobody may fragment an IPv6 packet on its way.
  EXPECT_EQ(load_be<std::uint16_t>(out.data() + 6), 0x4000);
  const auto six = write(inner_ipv4(10), {.endpoints = ends(6), .dscp = 0}).out;
  EXPECT_EQ(class_of(six), kEct0);
  EXPECT_EQ(load_be<std::uint32_t>(six.data()) & 0xfffff, 0u);
}

TEST(Tunnel, RefusesWhatDoesNotFit) {
  const auto clear = inner_ipv4(10);
  const auto outer = *outer_ip_of(clear, {});
  Octets out(sealed_size(clear.size(), false) + kIpv4Header);
  EXPECT_TRUE(write_tunnel_outer(clear, {.crypt_offset = {7}}, outer, out));  // 28 of 30 octets
  EXPECT_EQ(write_tunnel_outer(clear, {.crypt_offset = {8}}, outer, out).error(),
            Drop::BAD_CRYPT_OFFSET);
  out.pop_back();
  EXPECT_EQ(write_tunnel_outer(clear, {}, outer, out).error(), Drop::TX_BAD_PACKET);
  Octets big(70000);
  EXPECT_TRUE(write_tunnel_outer(inner_ipv4(65535 - 60 - 20), {}, outer, big));
  EXPECT_EQ(write_tunnel_outer(inner_ipv4(65535 - 60 - 19), {}, outer, big).error(),
            Drop::TX_TOO_BIG);
  OuterIp six = outer;
  six.endpoints.family = 6;
  EXPECT_TRUE(write_tunnel_outer(inner_ipv4(65535 - 40 - 20), {}, six, big));
  EXPECT_EQ(write_tunnel_outer(inner_ipv4(65535 - 40 - 19), {}, six, big).error(),
            Drop::TX_TOO_BIG);
  EXPECT_EQ(outer_ip_of(Octets(3, 0x45), {}).error(), Drop::TRUNCATED);
}

TEST(Tunnel, ChecksWhatComesOut) {
  for (const std::uint8_t family : {4, 6}) {
    const std::uint8_t right = family == 4 ? kProtocolIpv4 : kProtocolIpv6;
    const std::uint8_t wrong = family == 4 ? kProtocolIpv6 : kProtocolIpv4;
    auto inner = inner_of(family, 30);
    EXPECT_EQ(check_inner(inner, right), std::nullopt);
    EXPECT_EQ(check_inner(inner, wrong), Drop::BAD_INNER);
    inner.push_back(0);
    EXPECT_EQ(check_inner(inner, right), Drop::BAD_INNER);
    inner.pop_back();
    inner.pop_back();
    EXPECT_EQ(check_inner(inner, right), Drop::BAD_INNER);
    EXPECT_EQ(check_inner({}, right), Drop::BAD_INNER);
  }
}

TEST(Ecn, LeavesATunnelByTheTableOfRfc6040) {
  struct Row {
    std::uint8_t inner, outer;
    std::optional<std::uint8_t> result;
  };
  constexpr Row rows[] = {
      {kNotEct, kNotEct, kNotEct}, {kNotEct, kEct0, kNotEct},
      {kNotEct, kEct1, kNotEct},   {kNotEct, kCe, {}},
      {kEct0, kNotEct, kEct0},     {kEct0, kEct0, kEct0},
      {kEct0, kEct1, kEct1},       {kEct0, kCe, kCe},
      {kEct1, kNotEct, kEct1},     {kEct1, kEct0, kEct1},
      {kEct1, kEct1, kEct1},       {kEct1, kCe, kCe},
      {kCe, kNotEct, kCe},         {kCe, kEct0, kCe},
      {kCe, kEct1, kCe},           {kCe, kCe, kCe},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(merged_ecn(row.inner, row.outer), row.result) << int{row.inner} << int{row.outer};
    for (const std::uint8_t inner : {4, 6}) {
      for (const std::uint8_t outer : {4, 6}) {
        auto packet = inner_of(inner, 5);
        if (inner == 4) {
          packet[1] = static_cast<std::uint8_t>((kTos & 0xfc) | row.inner);
          put_checksum(packet);
        } else {
          packet[1] = static_cast<std::uint8_t>((packet[1] & 0xcf) | row.inner << 4);
        }
        auto tunnel = inner_of(outer, 0);
        if (outer == 4)
          tunnel[1] = static_cast<std::uint8_t>(0x28 | row.outer);
        else
          tunnel[1] = static_cast<std::uint8_t>((tunnel[1] & 0xcf) | row.outer << 4);
        const auto refused = merge_ecn(packet, tunnel);
        if (!row.result) {
          EXPECT_EQ(refused, Drop::BAD_ECN);
          continue;
        }
        EXPECT_EQ(refused, std::nullopt);
        EXPECT_EQ(class_of(packet), (kTos & 0xfc) | *row.result);  // the inner DSCP stays
        EXPECT_TRUE(checksum_holds(packet));
      }
    }
  }
}

TEST(Ecn, DoesNotRepairADamagedInnerHeader) {
  auto packet = inner_ipv4(5);
  packet[8] ^= 1;
  auto tunnel = inner_ipv4(0);
  tunnel[1] = kCe;
  EXPECT_EQ(merge_ecn(packet, tunnel), std::nullopt);
  EXPECT_FALSE(checksum_holds(packet));
}

RC_GTEST_PROP(TunnelProperty, WhatIsWrittenIsReadBack, ()) {
  const auto inner = *rc::gen::element<std::uint8_t>(4, 6);
  const auto outer = *rc::gen::element<std::uint8_t>(4, 6);
  const auto clear = inner_of(inner, *rc::gen::inRange<std::size_t>(0, 3000));
  EncapOptions options;
  options.version = *to_version(*rc::gen::inRange(0u, 4u));
  options.crypt_offset = {*rc::gen::inRange<std::uint8_t>(0, 6)};
  options.iv = *rc::gen::arbitrary<std::uint64_t>();
  if (*rc::gen::arbitrary<bool>()) options.cookie = *rc::gen::arbitrary<std::uint64_t>();
  const auto written = write(clear, {.endpoints = ends(outer)}, options);
  const auto read = parse_packet(written.out);
  RC_ASSERT(read.has_value());
  RC_ASSERT(read->header == written.packet.header);
  RC_ASSERT(read->icv_offset + kIcv == written.out.size());
}

}  // namespace
}  // namespace psp::wire
