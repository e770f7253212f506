// SPDX-License-Identifier: Apache-2.0
//
// Parser and writer of the exchange's messages, side by side; see message.hh for the layout. What
// is parsed comes from the peer: it is checked whole before anything of it is used. A field that is
// not known is passed over unless its top bit forbids it, which is how a later version can add one.
// Texts of the peer are cut and made printable, for they get onto terminals. Keys go from octets
// that are wiped into Secrets that are.
#include "keyx/message.hh"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "wire/bytes.hh"

namespace psp::keyx {
namespace {

constexpr std::array<std::uint8_t, 4> kMagic{'P', 'S', 'P', 'X'};
enum Type : std::uint8_t { kOffer = 1, kKey = 2, kError = 3 };

enum Tag : std::uint8_t {
  kVersions = 0x81,  // 4 octets, mask
  kFlags = 0x82,     // 4 octets, bit 0: TLS allowed
  kAbsence = 0x03,   // 1 octet
  kText = 0x04,
  kVersion = 0x85,  // 1 octet
  kSpi = 0x86,      // 4 octets
  kSaKey = 0x87,    // 16 or 32 octets by version
  kRefusal = 0x88,  // 1 octet
};
constexpr std::uint8_t kCritical = 0x80;
constexpr std::uint32_t kFlagTlsAllowed = 1;

using Octets = std::span<const std::uint8_t>;
using Kind = ParseError::Kind;

std::unexpected<ParseError> bad(Kind kind, const char* text) {
  return std::unexpected(ParseError{kind, text});
}

// Fields are the fields of one message, by tag; absent ones are nullopt.
struct Fields {
  std::optional<Octets> versions, flags, absence, text, version, spi, key, refusal;

  std::optional<Octets>* slot(std::uint8_t tag) {
    switch (tag) {
      case kVersions:
        return &versions;
      case kFlags:
        return &flags;
      case kAbsence:
        return &absence;
      case kText:
        return &text;
      case kVersion:
        return &version;
      case kSpi:
        return &spi;
      case kSaKey:
        return &key;
      case kRefusal:
        return &refusal;
      default:
        return nullptr;
    }
  }
};

std::expected<Fields, ParseError> split(Octets body) {
  Fields fields;
  while (!body.empty()) {
    if (body.size() < 2 || body.size() < 2u + body[1])
      return bad(Kind::kTruncated, "has a field that runs past its end");
    const std::uint8_t tag = body[0];
    const Octets value = body.subspan(2, body[1]);
    body = body.subspan(2 + value.size());
    auto* slot = fields.slot(tag);
    if (slot == nullptr) {
      if (tag & kCritical)
        return bad(Kind::kBadField, "has a field that this version must not skip");
      continue;
    }
    if (slot->has_value()) return bad(Kind::kBadField, "has the same field twice");
    *slot = value;
  }
  return fields;
}

// printable keeps the peer from writing control characters to somebody's terminal.
std::string printable(const std::optional<Octets>& text) {
  std::string out;
  if (text)
    for (std::uint8_t c : text->first(std::min(text->size(), kTextMax)))
      out += c >= 0x20 && c < 0x7f ? static_cast<char>(c) : '?';
  return out;
}

std::expected<Message, ParseError> to_offer(const Fields& f) {
  if (!f.versions || f.versions->size() != 4 || !f.flags || f.flags->size() != 4)
    return bad(Kind::kBadField, "is an offer without versions or flags");
  if (f.absence && f.absence->size() != 1)
    return bad(Kind::kBadField, "has a reason of wrong length");
  Offer offer;
  // Versions that we do not know are not an error: the peer is newer.
  offer.versions = {wire::load_be<std::uint32_t>(f.versions->data()) & VersionSet::all().bits};
  offer.tls_allowed = wire::load_be<std::uint32_t>(f.flags->data()) & kFlagTlsAllowed;
  if (f.absence) {
    const std::uint8_t value = (*f.absence)[0];
    offer.absence = value <= static_cast<std::uint8_t>(Absence::kFault)
                        ? static_cast<Absence>(value)
                        : Absence::kFault;
  }
  offer.reason = printable(f.text);
  return offer;
}

std::expected<Message, ParseError> to_key(const Fields& f) {
  if (!f.version || f.version->size() != 1 || !f.spi || f.spi->size() != 4 || !f.key)
    return bad(Kind::kBadField, "is a key without version, SPI or key");
  const auto version = to_version((*f.version)[0]);
  if (!version) return bad(Kind::kBadField, "has a key of an unknown PSP version");
  KeyMessage message;
  message.version = *version;
  message.spi = {wire::load_be<std::uint32_t>(f.spi->data())};
  if (!message.spi.valid()) return bad(Kind::kBadSpi, "has an SPI whose lower 31 bits are zero");
  if (f.key->size() != key_size(*version))
    return bad(Kind::kBadKey, "has a key whose length does not fit its PSP version");
  message.key.assign(*f.key);
  return message;
}

std::expected<Message, ParseError> to_error(const Fields& f) {
  if (!f.refusal || f.refusal->size() != 1)
    return bad(Kind::kBadField, "is an error without a code");
  return ErrorMessage{static_cast<Refusal>((*f.refusal)[0]), printable(f.text)};
}

// Writer builds a message; everything that is put in fits by construction (kTextMax).
class Writer {
 public:
  explicit Writer(Type type) {
    bytes_.resize(kMessageHeader);
    std::memcpy(bytes_.data(), kMagic.data(), kMagic.size());
    bytes_.data()[4] = kProtocolVersion;
    bytes_.data()[5] = type;
  }
  void field(Tag tag, Octets value) {
    const std::size_t at = bytes_.size();
    bytes_.resize(at + 2 + value.size());
    bytes_.data()[at] = tag;
    bytes_.data()[at + 1] = static_cast<std::uint8_t>(value.size());
    if (!value.empty()) std::memcpy(bytes_.data() + at + 2, value.data(), value.size());
  }
  void u8(Tag tag, std::uint8_t value) { field(tag, {&value, 1}); }
  void u32(Tag tag, std::uint32_t value) {
    std::array<std::uint8_t, 4> octets;
    wire::store_be(octets.data(), value);
    field(tag, octets);
  }
  void text(const std::string& value) {
    if (value.empty()) return;
    field(kText,
          {reinterpret_cast<const std::uint8_t*>(value.data()), std::min(value.size(), kTextMax)});
  }
  MessageBytes finish() {
    wire::store_be(bytes_.data() + 6, static_cast<std::uint16_t>(bytes_.size() - kMessageHeader));
    return std::move(bytes_);
  }

 private:
  MessageBytes bytes_;
};

}  // namespace

std::expected<std::size_t, ParseError> body_length(Octets header) {
  if (header.size() < kMessageHeader) return bad(Kind::kTruncated, "is shorter than its header");
  if (!std::equal(kMagic.begin(), kMagic.end(), header.begin()))
    return bad(Kind::kNotOurs, "is not of the PSP key exchange");
  if (header[4] != kProtocolVersion)
    return bad(Kind::kOtherVersion, "is of another version of the key exchange");
  const std::size_t length = wire::load_be<std::uint16_t>(header.data() + 6);
  if (length > kMessageMax - kMessageHeader) return bad(Kind::kTooLong, "is too long");
  return length;
}

std::expected<Message, ParseError> parse(Octets octets) {
  const auto length = body_length(octets);
  if (!length) return std::unexpected(length.error());
  if (octets.size() != kMessageHeader + *length)
    return bad(Kind::kTruncated, "is not as long as it says");
  const auto fields = split(octets.subspan(kMessageHeader));
  if (!fields) return std::unexpected(fields.error());
  switch (octets[5]) {
    case kOffer:
      return to_offer(*fields);
    case kKey:
      return to_key(*fields);
    case kError:
      return to_error(*fields);
    default:
      return bad(Kind::kBadField, "is of an unknown type");
  }
}

MessageBytes serialize(const Offer& offer) {
  Writer writer(kOffer);
  writer.u32(kVersions, offer.versions.bits);
  writer.u32(kFlags, offer.tls_allowed ? kFlagTlsAllowed : 0);
  if (offer.absence != Absence::kNone)
    writer.u8(kAbsence, static_cast<std::uint8_t>(offer.absence));
  writer.text(offer.reason);
  return writer.finish();
}

MessageBytes serialize(const KeyMessage& key) {
  Writer writer(kKey);
  writer.u8(kVersion, static_cast<std::uint8_t>(key.version));
  writer.u32(kSpi, key.spi.value);
  writer.field(kSaKey, key.key.span());
  return writer.finish();
}

MessageBytes serialize(const ErrorMessage& error) {
  Writer writer(kError);
  writer.u8(kRefusal, static_cast<std::uint8_t>(error.code));
  writer.text(error.text);
  return writer.finish();
}

namespace {

constexpr std::uint8_t kFizzTagError = 0, kFizzTagSa = 1;
constexpr std::size_t kFizzSa = 40, kFizzVersionAt = 4, kFizzKeyAt = 8;

std::expected<FizzMessage, ParseError> to_sa(Octets value) {
  if (value.size() < kFizzSa) return bad(Kind::kTruncated, "is too short for a key");
  const auto version = to_version(value[kFizzVersionAt]);
  if (!version) return bad(Kind::kBadField, "has a key of an unknown PSP version");
  KeyMessage key{*version, {wire::load_be<std::uint32_t>(value.data())}, {}};
  if (!key.spi.valid()) return bad(Kind::kBadSpi, "has an SPI whose lower 31 bits are zero");
  key.key.assign(value.subspan(kFizzKeyAt, key_size(*version)));
  return key;
}

}  // namespace

std::expected<FizzMessage, ParseError> parse_fizz(Octets octets) {
  if (octets.size() < kFizzHeader || octets.size() != kFizzHeader + octets[1])
    return bad(Kind::kTruncated, "is not as long as it says");
  const Octets value = octets.subspan(kFizzHeader);
  switch (octets[0]) {
    case kFizzTagSa:
      return to_sa(value);
    case kFizzTagError:
      if (value.size() != 1) return bad(Kind::kBadField, "is an error of wrong length");
      return FizzError{value[0]};
    default:
      return bad(Kind::kBadField, "is of an unknown type");
  }
}

MessageBytes serialize_fizz(const KeyMessage& key) {
  MessageBytes out;
  out.resize(kFizzHeader + kFizzSa);
  std::uint8_t* const value = out.data() + kFizzHeader;
  out.data()[0] = kFizzTagSa;
  out.data()[1] = kFizzSa;
  wire::store_be(value, key.spi.value);
  value[kFizzVersionAt] = static_cast<std::uint8_t>(key.version);
  std::memcpy(value + kFizzKeyAt, key.key.data(), key.key.size());
  return out;
}

MessageBytes serialize_fizz(const FizzError& error) {
  const std::uint8_t octets[] = {kFizzTagError, 1, error.code};
  return MessageBytes(octets);
}

}  // namespace psp::keyx
