// SPDX-License-Identifier: Apache-2.0
//
// Whole packets: sealed and opened again for every version, family, crypt offset and cookie, in
// place and out of place; every flipped bit refused; the parts that the crypt offset leaves in
// clear seen to be in clear.
#include "crypto/seal.hh"

#include <algorithm>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "wire/bytes.hh"

#include "test_support.hh"

namespace psp::crypto {
namespace {

using test::clear_packet;
using test::Octets;
using test::pattern;

using wire::EncapOptions;

EncapOptions options_for(Version version) {
  EncapOptions options;
  options.version = version;
  options.spi = {0x80000123};
  options.iv = 0x0102030405060708;
  options.source_port = 40000;
  return options;
}

Octets sealed(Aead& aead, const EncapOptions& options, const Octets& clear) {
  Octets out(wire::sealed_size(clear.size(), options.cookie.has_value()));
  const auto size = seal_packet(aead, options, clear, out);
  EXPECT_EQ(size, out.size());
  return out;
}

std::expected<Octets, Drop> opened(Aead& aead, const Octets& packet) {
  const auto parsed = wire::parse_packet(packet);
  if (!parsed) return std::unexpected(parsed.error());
  Octets out(packet.size());
  const auto size = open_packet(aead, *parsed, packet, out);
  if (!size) return std::unexpected(size.error());
  out.resize(*size);
  return out;
}

class SealTest : public testing::TestWithParam<const Backend*> {
 protected:
  void rekey(Version version) { aead_->rekey(version, pattern(key_size(version), 3)); }

  std::unique_ptr<Aead> aead_ = GetParam()->make_aead();
};
INSTANTIATE_TEST_SUITE_P(All, SealTest, testing::ValuesIn(test::backends()), test::backend_name);

TEST_P(SealTest, OpensWhatItSealedInEveryForm) {
  for (unsigned version = 0; version < kVersions; ++version) {
    auto options = options_for(*to_version(version));
    rekey(options.version);
    for (const std::uint8_t family : {4, 6}) {
      for (const std::size_t payload : {0, 1, 20, 252, 1420}) {
        for (const bool with_cookie : {false, true}) {
          for (std::uint8_t units = 0; units <= CryptOffset::kMaxUnits; ++units) {
            options.crypt_offset = {units};
            options.cookie = with_cookie ? std::optional(0xc0c1c2c3c4c5c6c7) : std::nullopt;
            if (options.crypt_offset.octets() > payload + (with_cookie ? 8 : 0)) break;
            const Octets clear = clear_packet(family, payload);
            ASSERT_EQ(opened(*aead_, sealed(*aead_, options, clear)), clear)
                << version << " " << int{family} << " " << payload << " " << int{units};
          }
        }
      }
    }
  }
}

TEST_P(SealTest, LeavesInClearWhatTheCryptOffsetSaysAndNothingElse) {
  rekey(Version::kAesGcm128);
  const Octets clear = clear_packet(4, 100);
  for (const std::uint8_t units : {0, 1, 5, 25}) {
    auto options = options_for(Version::kAesGcm128);
    options.crypt_offset = {units};
    const Octets packet = sealed(*aead_, options, clear);
    const std::size_t inner = kIpv4Header + kUdpHeader + kPspBaseHeader;
    std::size_t same = 0;
    while (same < 100 && packet[inner + same] == clear[kIpv4Header + same]) ++same;
    EXPECT_EQ(same, options.crypt_offset.octets());
  }
}

TEST_P(SealTest, EncryptsTheCookieUnlessTheCryptOffsetCoversIt) {
  rekey(Version::kAesGcm256);
  auto options = options_for(Version::kAesGcm256);
  options.cookie = 0xc0c1c2c3c4c5c6c7;
  for (const std::uint8_t units : {0, 1, 2}) {
    options.crypt_offset = {units};
    const Octets packet = sealed(*aead_, options, clear_packet(6, 60));
    const auto parsed = wire::parse_packet(packet);
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->header.cookie == options.cookie, units == 2) << int{units};
    // The first half is in clear from one unit on.
    EXPECT_EQ(*parsed->header.cookie >> 32 == *options.cookie >> 32, units >= 1) << int{units};
  }
}

TEST_P(SealTest, GivesTheCookieInClearInFrontOfTheInnerPacket) {
  rekey(Version::kAesGcm128);
  auto options = options_for(Version::kAesGcm128);
  options.cookie = 0xc0c1c2c3c4c5c6c7;
  const Octets clear = clear_packet(4, 60);
  Octets packet = sealed(*aead_, options, clear);
  const auto parsed = wire::parse_packet(packet);
  ASSERT_TRUE(parsed);
  const auto datagram = std::span(packet).subspan(parsed->psp_offset);
  std::uint8_t* tail = datagram.data() + kPspBaseHeader;
  ASSERT_TRUE(open_datagram(*aead_, options.version, parsed->header, datagram, tail));  // in place
  EXPECT_EQ(wire::load_be<std::uint64_t>(tail), options.cookie);
  EXPECT_TRUE(std::equal(clear.begin() + kIpv4Header, clear.end(), tail + kVirtualizationCookie));
}

TEST_P(SealTest, SealsInPlaceAsOutOfPlace) {
  for (unsigned version = 0; version < kVersions; ++version) {
    for (const std::uint8_t units : {0, 1, 2, 3, 27}) {
      for (const bool with_cookie : {false, true}) {
        auto options = options_for(*to_version(version));
        options.crypt_offset = {units};
        if (with_cookie) options.cookie = 77;
        rekey(options.version);
        const Octets clear = clear_packet(4, 108);
        const Octets expected = sealed(*aead_, options, clear);

        Octets packet(expected.size());
        const auto outer = wire::write_outer(clear, options, packet);
        ASSERT_TRUE(outer);
        std::copy(clear.begin() + kIpv4Header, clear.end(),
                  packet.begin() + static_cast<std::ptrdiff_t>(outer->inner_offset));
        const auto whole = std::span(packet);
        seal_datagram(*aead_, options.version, whole.subspan(outer->psp_offset),
                      outer->header.size(),
                      whole.subspan(outer->inner_offset, outer->icv_offset - outer->inner_offset));
        EXPECT_EQ(packet, expected) << version << " " << int{units};
      }
    }
  }
}

TEST_P(SealTest, OpensALongExtension) {
  // Longer than the IP header in front of which open_packet would put it.
  rekey(Version::kAesGcm128);
  for (const std::uint8_t ext_length : {1, 2, 3, 4, 5, 20, 255}) {
    for (const std::uint8_t units : {0, 2, 10}) {
      const Octets clear = clear_packet(4, 100);
      wire::PspHeader header;
      header.ext_length = ext_length;
      header.crypt_offset = {units};
      header.spi = {5};
      const std::size_t payload = kUdpHeader + header.size() + 100 + kIcv;
      Octets packet(kIpv4Header + payload);
      std::copy_n(clear.begin(), kIpv4Header, packet.begin());
      wire::set_ip_payload(packet, *wire::parse_ip(clear), payload, wire::kProtocolUdp);
      const auto udp = std::span(packet).subspan(kIpv4Header);
      wire::store_be(udp.data() + 2, kUdpPort);
      wire::store_be(udp.data() + 4, static_cast<std::uint16_t>(payload));
      wire::write_header(udp.subspan(kUdpHeader), header);
      seal_datagram(*aead_, Version::kAesGcm128, udp.subspan(kUdpHeader), header.size(),
                    std::span(clear).subspan(kIpv4Header));
      EXPECT_EQ(opened(*aead_, packet), clear) << int{ext_length} << " " << int{units};
    }
  }
}

TEST_P(SealTest, RefusesEveryFlippedBit) {
  for (unsigned version = 0; version < kVersions; ++version) {
    for (const bool with_cookie : {false, true}) {
      auto options = options_for(*to_version(version));
      options.crypt_offset = {3};
      if (with_cookie) options.cookie = 1;
      rekey(options.version);
      const Octets good = sealed(*aead_, options, clear_packet(4, 40));
      std::size_t refused_by_icv = 0;
      for (std::size_t bit = 8 * (kIpv4Header + kUdpHeader); bit < 8 * good.size(); ++bit) {
        Octets packet = good;
        packet[bit / 8] ^= static_cast<std::uint8_t>(1u << bit % 8);
        const auto result = opened(*aead_, packet);
        ASSERT_FALSE(result) << "bit " << bit;
        refused_by_icv += result.error() == Drop::AUTH_FAIL;
      }
      // All but a few bits of the second to fourth octet of the header get as far as the ICV.
      EXPECT_GT(refused_by_icv, 8 * (good.size() - 28) - 24);
    }
  }
}

TEST_P(SealTest, RefusesAnotherKeyAndAnotherVersion) {
  rekey(Version::kAesGcm128);
  const Octets packet = sealed(*aead_, options_for(Version::kAesGcm128), clear_packet(4, 40));
  ASSERT_TRUE(opened(*aead_, packet));
  aead_->rekey(Version::kAesGcm128, pattern(16, 4));
  EXPECT_EQ(opened(*aead_, packet), std::unexpected(Drop::AUTH_FAIL));
  rekey(Version::kAesGmac128);  // the same 16 octets of key
  Octets as_gmac = packet;
  as_gmac[28 + 3] |= 0x08;
  EXPECT_EQ(opened(*aead_, as_gmac), std::unexpected(Drop::AUTH_FAIL));
  Octets unknown = packet;
  unknown[28 + 3] |= 0x10;
  EXPECT_EQ(opened(*aead_, unknown), std::unexpected(Drop::BAD_VERSION));
}

TEST_P(SealTest, AuthenticatesReservedBitsAsReceived) {
  rekey(Version::kAesGcm128);
  Octets packet = sealed(*aead_, options_for(Version::kAesGcm128), clear_packet(4, 40));
  packet[28 + 2] |= 0x40;
  EXPECT_EQ(opened(*aead_, packet), std::unexpected(Drop::AUTH_FAIL));
}

TEST_P(SealTest, DoesNotAuthenticateWhatIsInFrontOfThePspHeader) {
  // A router may change TTL and ECN, a middlebox the source port: by design they are not covered.
  rekey(Version::kAesGcm128);
  const Octets clear = clear_packet(6, 40);
  Octets packet = sealed(*aead_, options_for(Version::kAesGcm128), clear);
  packet[7] -= 1;               // hop limit
  packet[kIpv6Header] ^= 0x55;  // UDP source port
  Octets expected = clear;
  expected[7] -= 1;
  EXPECT_EQ(opened(*aead_, packet), expected);
}

TEST_P(SealTest, PassesOnWhyAPacketCannotBeSealed) {
  rekey(Version::kAesGcm128);
  const auto options = options_for(Version::kAesGcm128);
  Octets out(100);
  EXPECT_EQ(seal_packet(*aead_, options, clear_packet(4, 60), out).error(), Drop::TX_BAD_PACKET);
  EXPECT_EQ(seal_packet(*aead_, options, {}, out).error(), Drop::TRUNCATED);
  auto beyond = options;
  beyond.crypt_offset = {10};
  EXPECT_EQ(seal_packet(*aead_, beyond, clear_packet(4, 36), out).error(), Drop::BAD_CRYPT_OFFSET);
}

RC_GTEST_PROP(SealProperty, BackendsSealAlikeAndOpenEachOther, ()) {
  EncapOptions options;
  options.version = *to_version(*rc::gen::inRange(0u, 4u));
  options.spi = {*rc::gen::arbitrary<std::uint32_t>()};
  options.iv = *rc::gen::arbitrary<std::uint64_t>();
  options.source_port = *rc::gen::arbitrary<std::uint16_t>();
  if (*rc::gen::arbitrary<bool>()) options.cookie = *rc::gen::arbitrary<std::uint64_t>();
  const auto payload = *rc::gen::inRange<std::size_t>(0, 2001);
  const std::size_t tail = payload + (options.cookie ? kVirtualizationCookie : 0);
  const auto most = std::min<std::size_t>(tail / 4, CryptOffset::kMaxUnits);
  options.crypt_offset = {static_cast<std::uint8_t>(*rc::gen::inRange<std::size_t>(0, most + 1))};
  const Octets clear = clear_packet(*rc::gen::element<std::uint8_t>(4, 6), payload);
  const Octets key =
      *rc::gen::container<Octets>(key_size(options.version), rc::gen::arbitrary<std::uint8_t>());

  std::vector<Octets> packets;
  std::vector<std::unique_ptr<Aead>> aeads;
  for (const Backend* backend : test::backends()) {
    aeads.push_back(backend->make_aead());
    aeads.back()->rekey(options.version, key);
    packets.push_back(sealed(*aeads.back(), options, clear));
  }
  for (std::size_t i = 0; i < packets.size(); ++i) {
    RC_ASSERT(packets[i] == packets[0]);
    const auto result = opened(*aeads[packets.size() - 1 - i], packets[i]);
    RC_ASSERT(result.has_value());
    RC_ASSERT(*result == clear);
  }
}

}  // namespace
}  // namespace psp::crypto
