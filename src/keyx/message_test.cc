// SPDX-License-Identifier: Apache-2.0
//
// The messages of the exchange: writer and parser are inverses, and nothing malformed gets through.
// Malformed ones are written out by hand: cut at every length, lengths that lie, fields twice,
// missing or too long, SPIs and keys that cannot be. fizz's message is compared octet by octet.
// Arbitrary octets: fuzz/keyx_fuzz.cc. What an end does about a message that is refused:
// exchange_test.cc.
#include "keyx/message.hh"

#include <gtest/gtest.h>
#include <vector>

namespace psp::keyx {
namespace {

using Bytes = std::vector<std::uint8_t>;
using Kind = ParseError::Kind;

Bytes bytes(const MessageBytes& from) { return {from.span().begin(), from.span().end()}; }

// message puts a correct header in front of `body`.
Bytes message(std::uint8_t type, const Bytes& body) {
  Bytes out{'P',
            'S',
            'P',
            'X',
            kProtocolVersion,
            type,
            static_cast<std::uint8_t>(body.size() >> 8),
            static_cast<std::uint8_t>(body.size())};
  for (std::uint8_t octet : body) out.push_back(octet);
  return out;
}

Kind failure(const Bytes& octets) {
  const auto parsed = parse(octets);
  EXPECT_FALSE(parsed);
  return parsed ? Kind::kNotOurs : parsed.error().kind;
}

KeyMessage some_key(Version version, std::size_t length) {
  return {version, Spi{0x80000001}, crypto::SaKey(Bytes(length, 0x5a))};
}

TEST(Message, AnOfferComesBackAsItWas) {
  const Offer offer{.versions = {0x5},
                    .tls_allowed = true,
                    .absence = Absence::kDisabled,
                    .reason = "receive is disabled"};
  const auto parsed = parse(serialize(offer).span());
  ASSERT_TRUE(parsed);
  const auto& back = std::get<Offer>(*parsed);
  EXPECT_EQ(back.versions, offer.versions);
  EXPECT_TRUE(back.tls_allowed);
  EXPECT_EQ(back.absence, Absence::kDisabled);
  EXPECT_EQ(back.reason, offer.reason);
}

TEST(Message, AKeyOfEachVersionComesBackAsItWas) {
  for (unsigned i = 0; i < kVersions; ++i) {
    const auto version = static_cast<Version>(i);
    const auto parsed = parse(serialize(some_key(version, key_size(version))).span());
    ASSERT_TRUE(parsed) << i;
    const auto& back = std::get<KeyMessage>(*parsed);
    EXPECT_EQ(back.version, version);
    EXPECT_EQ(back.spi, Spi{0x80000001});
    EXPECT_EQ(Bytes(back.key.span().begin(), back.key.span().end()),
              Bytes(key_size(version), 0x5a));
  }
}

TEST(Message, AnErrorComesBackAsItWas) {
  const auto parsed =
      parse(serialize(ErrorMessage{Refusal::kRxAssoc, "SPI space exhausted"}).span());
  ASSERT_TRUE(parsed);
  EXPECT_EQ(std::get<ErrorMessage>(*parsed).code, Refusal::kRxAssoc);
  EXPECT_EQ(std::get<ErrorMessage>(*parsed).text, "SPI space exhausted");
}

TEST(Message, EveryTruncationIsRefused) {
  const Bytes whole = bytes(serialize(some_key(Version::kAesGcm256, 32)));
  for (std::size_t n = 0; n < whole.size(); ++n)
    EXPECT_FALSE(parse(std::span(whole).first(n))) << n;
}

TEST(Message, OctetsBehindTheEndAreRefused) {
  Bytes octets = bytes(serialize(some_key(Version::kAesGcm256, 32)));
  octets.push_back(0);
  EXPECT_EQ(failure(octets), Kind::kTruncated);
}

TEST(Message, TheHeaderIsCheckedBeforeTheLength) {
  Bytes octets = bytes(serialize(Offer{}));
  octets[6] = octets[7] = 0xff;
  EXPECT_EQ(failure(octets), Kind::kTooLong);
  octets[4] = kProtocolVersion + 1;
  EXPECT_EQ(failure(octets), Kind::kOtherVersion);
  octets[0] = 'G';
  EXPECT_EQ(failure(octets), Kind::kNotOurs);
}

TEST(Message, TheLongestBodyIsTheLimit) {
  Bytes header{'P', 'S', 'P', 'X', kProtocolVersion, 1, 0x01, 0xf8};  // 504 = 512 - 8
  EXPECT_EQ(body_length(header), kMessageMax - kMessageHeader);
  header[7] = 0xf9;
  EXPECT_EQ(body_length(header).error().kind, Kind::kTooLong);
}

TEST(Message, AnUnknownFieldIsSkippedUnlessItsTopBitSaysNo) {
  const Bytes fields{0x81, 4, 0, 0, 0, 1, 0x82, 4, 0, 0, 0, 0};
  Bytes optional = fields, critical = fields;
  optional.insert(optional.end(), {0x7f, 2, 1, 2});
  critical.insert(critical.end(), {0xff, 2, 1, 2});
  EXPECT_TRUE(parse(message(1, optional)));
  EXPECT_EQ(failure(message(1, critical)), Kind::kBadField);
}

TEST(Message, AFieldTwiceIsRefused) {
  EXPECT_EQ(failure(message(1, {0x81, 4, 0, 0, 0, 1, 0x82, 4, 0, 0, 0, 0, 0x81, 4, 0, 0, 0, 15})),
            Kind::kBadField);
}

TEST(Message, AFieldThatRunsPastTheEndIsRefused) {
  EXPECT_EQ(failure(message(1, {0x81, 4, 0, 0, 0, 1, 0x82, 5, 0, 0, 0, 0})), Kind::kTruncated);
  EXPECT_EQ(failure(message(1, {0x81})), Kind::kTruncated);
}

TEST(Message, AMissingOrMisSizedFieldIsRefused) {
  EXPECT_EQ(failure(message(1, {})), Kind::kBadField);
  EXPECT_EQ(failure(message(1, {0x81, 3, 0, 0, 1, 0x82, 4, 0, 0, 0, 0})), Kind::kBadField);
  EXPECT_EQ(failure(message(2, {})), Kind::kBadField);
  EXPECT_EQ(failure(message(3, {})), Kind::kBadField);
  EXPECT_EQ(failure(message(4, {})), Kind::kBadField);
}

TEST(Message, AnSpiWithoutIndexIsRefusedInBothPhases) {
  for (std::uint32_t spi : {0u, Spi::kPhaseBit}) {
    KeyMessage key = some_key(Version::kAesGcm128, 16);
    key.spi = {spi};
    EXPECT_EQ(failure(bytes(serialize(key))), Kind::kBadSpi);
  }
}

TEST(Message, AKeyOfAnotherLengthThanItsVersionsIsRefused) {
  EXPECT_EQ(failure(bytes(serialize(some_key(Version::kAesGcm128, 32)))), Kind::kBadKey);
  EXPECT_EQ(failure(bytes(serialize(some_key(Version::kAesGcm256, 16)))), Kind::kBadKey);
  EXPECT_EQ(failure(bytes(serialize(some_key(Version::kAesGmac256, 0)))), Kind::kBadKey);
}

TEST(Message, AnUnknownPspVersionInAKeyIsRefusedButInAnOfferIsIgnored) {
  EXPECT_EQ(failure(message(2, {0x85, 1, 4, 0x86, 4, 0, 0, 0, 1, 0x87, 1, 0})), Kind::kBadField);
  const auto offer = parse(message(1, {0x81, 4, 0, 0, 0, 0x12, 0x82, 4, 0, 0, 0, 0}));
  ASSERT_TRUE(offer);
  EXPECT_EQ(std::get<Offer>(*offer).versions, VersionSet{0x2});
}

TEST(Message, TextsComeOutPrintableAndNoLongerThanTheLimit) {
  const auto parsed = parse(serialize(ErrorMessage{Refusal::kMalformed, "a\x1b[2Jb\n"}).span());
  ASSERT_TRUE(parsed);
  EXPECT_EQ(std::get<ErrorMessage>(*parsed).text, "a?[2Jb?");
  const auto longest =
      parse(serialize(ErrorMessage{Refusal::kMalformed, std::string(10000, 'x')}).span());
  ASSERT_TRUE(longest);
  EXPECT_EQ(std::get<ErrorMessage>(*longest).text, std::string(kTextMax, 'x'));
}

TEST(FizzMessage, IsExactOnTheWireAndComesBack) {
  for (unsigned i = 0; i < kVersions; ++i) {
    const auto version = static_cast<Version>(i);
    const KeyMessage key = some_key(version, key_size(version));
    const auto octets = serialize_fizz(key);
    std::vector<std::uint8_t> want{1, 40};
    for (int shift = 24; shift >= 0; shift -= 8)
      want.push_back(static_cast<std::uint8_t>(key.spi.value >> shift));
    want.insert(want.end(), {static_cast<std::uint8_t>(i), 0, 0, 0});
    want.insert(want.end(), key.key.span().begin(), key.key.span().end());
    want.resize(42);
    EXPECT_EQ(bytes(octets), want);
    const auto parsed = parse_fizz(octets.span());
    ASSERT_TRUE(parsed);
    EXPECT_EQ(std::get<KeyMessage>(*parsed).spi, key.spi);
    EXPECT_EQ(std::get<KeyMessage>(*parsed).version, version);
    EXPECT_TRUE(
        crypto::constant_time_equal(std::get<KeyMessage>(*parsed).key.span(), key.key.span()));
  }
  const auto error = parse_fizz(serialize_fizz(FizzError{kFizzRxAssoc}).span());
  ASSERT_TRUE(error);
  EXPECT_EQ(std::get<FizzError>(*error).code, kFizzRxAssoc);
}

}  // namespace
}  // namespace psp::keyx
