// SPDX-License-Identifier: Apache-2.0
//
// The PSP header: octets known from the specification, parser and writer as inverses of each other,
// every malformed shape, and arbitrary octets. The known header is written out by hand; a datagram
// is cut at every length, and what is refused must be refused for its reason, since each is another
// counter. Nothing here has a key: what an ICV says of these bits is in crypto/seal_test.cc.
#include "wire/header.hh"

#include <array>
#include <cstdint>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <span>
#include <vector>

namespace psp::wire {
namespace {

using Octets = std::vector<std::uint8_t>;

// Next header UDP, 24 octets, crypt offset 3, version 0 with cookie, SPI 0x9a345678, IV 1.
constexpr std::array<std::uint8_t, 24> kHeaderWithCookie = {
    0x11, 0x02, 0x03, 0x03, 0x9a, 0x34, 0x56, 0x78, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x01, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7};

// datagram_of is a header with `behind` octets and an ICV behind it.
Octets datagram_of(std::span<const std::uint8_t> header, std::size_t behind = 20) {
  Octets datagram(header.begin(), header.end());
  datagram.resize(header.size() + behind + kIcv, 0xee);
  return datagram;
}

Octets plain_datagram(std::size_t behind = 20) {
  std::array<std::uint8_t, 16> header{};
  write_header(header, PspHeader{.spi = {1}, .iv = 2});
  return datagram_of(header, behind);
}

rc::Gen<PspHeader> any_header() {
  return rc::gen::exec([] {
    PspHeader header;
    header.next_header = *rc::gen::arbitrary<std::uint8_t>();
    header.crypt_offset = {*rc::gen::inRange<std::uint8_t>(0, CryptOffset::kMaxUnits + 1)};
    header.sample = *rc::gen::arbitrary<bool>();
    header.drop_after_sampling = *rc::gen::arbitrary<bool>();
    header.version_number = *rc::gen::inRange<std::uint8_t>(0, 16);
    header.spi = {*rc::gen::arbitrary<std::uint32_t>()};
    header.iv = *rc::gen::arbitrary<std::uint64_t>();
    if (*rc::gen::arbitrary<bool>()) header.cookie = *rc::gen::arbitrary<std::uint64_t>();
    header.ext_length =
        static_cast<std::uint8_t>(*rc::gen::inRange<unsigned>(header.cookie ? 2 : 1, 256));
    return header;
  });
}

TEST(PspHeader, ReadsAHeaderWithCookie) {
  const auto header = parse_header(datagram_of(kHeaderWithCookie));
  ASSERT_TRUE(header);
  EXPECT_EQ(header->next_header, kProtocolUdp);
  EXPECT_EQ(header->size(), 24u);
  EXPECT_EQ(header->crypt_offset.octets(), 12u);
  EXPECT_FALSE(header->sample);
  EXPECT_FALSE(header->drop_after_sampling);
  EXPECT_EQ(header->version(), Version::kAesGcm128);
  EXPECT_EQ(header->spi.value, 0x9a345678u);
  EXPECT_EQ(header->spi.phase(), 1u);
  EXPECT_EQ(header->iv, 1u);
  EXPECT_EQ(header->cookie, 0xc0c1c2c3c4c5c6c7u);
}

TEST(PspHeader, WritesTheOctetsOfTheSpecification) {
  PspHeader header;
  header.next_header = kProtocolUdp;
  header.ext_length = 2;
  header.crypt_offset = {3};
  header.cookie = 0xc0c1c2c3c4c5c6c7;
  header.spi = {0x9a345678};
  header.iv = 1;
  std::array<std::uint8_t, 24> octets;
  octets.fill(0xff);
  EXPECT_EQ(write_header(octets, header), 24u);
  EXPECT_EQ(octets, kHeaderWithCookie);
}

TEST(PspHeader, WritesTheFlagsOfEachVersion) {
  constexpr std::uint8_t plain[kVersions] = {0x01, 0x05, 0x09, 0x0d};
  constexpr std::uint8_t with_cookie[kVersions] = {0x03, 0x07, 0x0b, 0x0f};
  for (std::uint8_t version = 0; version < kVersions; ++version) {
    std::array<std::uint8_t, 24> octets;
    PspHeader header{.version_number = version};
    write_header(octets, header);
    EXPECT_EQ(octets[3], plain[version]);
    header.ext_length = 2;
    header.cookie = 0;
    write_header(octets, header);
    EXPECT_EQ(octets[3], with_cookie[version]);
    header.sample = true;
    write_header(octets, header);
    EXPECT_EQ(octets[3], with_cookie[version] | 0x80);
    header.drop_after_sampling = true;
    write_header(octets, header);
    EXPECT_EQ(octets[3], with_cookie[version] | 0xc0);
  }
}

TEST(PspHeader, ZeroesTheExtensionBehindTheCookie) {
  Octets octets(32, 0xff);
  EXPECT_EQ(write_header(octets, PspHeader{.ext_length = 3, .cookie = ~std::uint64_t{0}}), 32u);
  EXPECT_EQ(Octets(octets.begin() + 16, octets.begin() + 24), Octets(8, 0xff));
  EXPECT_EQ(Octets(octets.begin() + 24, octets.end()), Octets(8, 0x00));
}

TEST(PspHeader, IgnoresReservedBits) {
  auto datagram = datagram_of(kHeaderWithCookie);
  const auto plain = parse_header(datagram);
  datagram[2] |= 0xc0;
  ASSERT_TRUE(plain);
  EXPECT_EQ(parse_header(datagram), plain);
}

TEST(PspHeader, IsTruncatedAtEveryShorterLength) {
  const auto whole = datagram_of(kHeaderWithCookie, 0);
  ASSERT_EQ(whole.size(), 40u);
  for (std::size_t length = 0; length <= 64; ++length) {
    Octets datagram = datagram_of(kHeaderWithCookie, 24);
    datagram.resize(length);
    const auto header = parse_header(datagram);
    if (length < whole.size())
      EXPECT_EQ(header, std::unexpected(Drop::TRUNCATED)) << length;
    else
      EXPECT_EQ(header.has_value(), length >= 44) << length;  // crypt offset 12: 16 + 12 + 16
  }
}

TEST(PspHeader, RefusesBadShapes) {
  auto datagram = plain_datagram();
  ASSERT_TRUE(parse_header(datagram));

  datagram[1] = 0;  // would end before the IV
  EXPECT_EQ(parse_header(datagram), std::unexpected(Drop::BAD_HEADER));
  datagram[1] = 255;  // 2048 octets
  EXPECT_EQ(parse_header(datagram), std::unexpected(Drop::TRUNCATED));

  datagram = plain_datagram();
  datagram[3] &= 0xfe;  // fixed bit
  EXPECT_EQ(parse_header(datagram), std::unexpected(Drop::BAD_HEADER));

  datagram = plain_datagram();
  datagram[3] |= 0x02;  // V without room for the cookie
  EXPECT_EQ(parse_header(datagram), std::unexpected(Drop::BAD_HEADER));
}

TEST(PspHeader, LetsTheCryptOffsetReachTheEndAndNotBeyond) {
  auto datagram = plain_datagram(20);
  datagram[2] = 5;
  EXPECT_TRUE(parse_header(datagram));
  datagram[2] = 6;
  EXPECT_EQ(parse_header(datagram), std::unexpected(Drop::BAD_CRYPT_OFFSET));
}

TEST(PspHeader, DoesNotJudgeTheCryptOffsetOfGmac) {
  auto datagram = plain_datagram(20);
  datagram[2] = 63;
  datagram[3] = 0x09;
  EXPECT_TRUE(parse_header(datagram));
  datagram[3] = 0x0d;
  EXPECT_TRUE(parse_header(datagram));
  datagram[3] = 0x11;  // version 4: unknown, so the field may matter
  EXPECT_EQ(parse_header(datagram), std::unexpected(Drop::BAD_CRYPT_OFFSET));
}

TEST(PspHeader, KnowsNoVersionAboveThree) {
  auto datagram = plain_datagram();
  for (unsigned number = 0; number < 16; ++number) {
    datagram[3] = static_cast<std::uint8_t>(number << 2 | 1);
    const auto header = parse_header(datagram);
    ASSERT_TRUE(header);
    EXPECT_EQ(header->version_number, number);
    EXPECT_EQ(header->version().has_value(), number < kVersions);
  }
}

RC_GTEST_PROP(PspHeaderProperty, ParserInvertsWriter, ()) {
  const PspHeader header = *any_header();
  Octets datagram(header.size() + 252 + kIcv, 0xee);
  RC_ASSERT(write_header(datagram, header) == header.size());
  const auto read = parse_header(datagram);
  RC_ASSERT(read.has_value());
  RC_ASSERT(*read == header);
}

RC_GTEST_PROP(PspHeaderProperty, WriterInvertsParser, ()) {
  // Any datagram that parses is written back, but for reserved bits and unknown extensions.
  auto datagram = *rc::gen::container<Octets>(64, rc::gen::arbitrary<std::uint8_t>());
  datagram[1] = *rc::gen::element<std::uint8_t>(0, 1, 1, 2, 2, 3, 4, 200);
  datagram[3] |= *rc::gen::element<std::uint8_t>(0, 1, 1, 1);
  const auto header = parse_header(datagram);
  if (!header) RC_DISCARD("does not parse");
  Octets again(header->size());
  write_header(again, *header);
  datagram[2] &= 0x3f;
  const std::size_t known = kPspBaseHeader + (header->cookie ? kVirtualizationCookie : 0);
  RC_ASSERT(std::equal(again.begin(), again.begin() + static_cast<std::ptrdiff_t>(known),
                       datagram.begin()));
}

RC_GTEST_PROP(PspHeaderProperty, WhatParsesFitsTheDatagram, (const Octets& datagram)) {
  const auto header = parse_header(datagram);
  if (header) RC_ASSERT(header->size() + kIcv <= datagram.size());
}

}  // namespace
}  // namespace psp::wire
