// SPDX-License-Identifier: Apache-2.0
//
// The messages of the key exchange, which travel inside TLS. Each is
//
//     magic "PSPX" | protocol version, 1 octet | type, 1 octet | length of the rest, 2 octets
//     then fields: tag, 1 octet | length, 1 octet | value
//
// with numbers big-endian. Version 2: START proves the addresses and ports, too. A field may stand
// once. An unknown field is skipped if the top bit of its tag is 0, and makes the message invalid
// if it is 1: that is how the protocol can grow.
#pragma once

#include <cstdint>
#include <expected>
#include <span>
#include <string>
#include <variant>

#include "crypto/secret.hh"
#include "wire/types.hh"

namespace psp::keyx {

inline constexpr std::uint8_t kProtocolVersion = 2;
inline constexpr std::size_t kMessageHeader = 8;
inline constexpr std::size_t kMessageMax = 512;  // octets, header included
inline constexpr std::size_t kTextMax = 240;     // octets of a text field

// Absence says why a side can receive no PSP version.
enum class Absence : std::uint8_t {
  kNone = 0,        // it can
  kNoProvider = 1,  // neither the kernel's family nor pspd answers
  kNoDevice = 2,    // the connection's netdev has no PSP device
  kDisabled = 3,    // psp-versions-ena is 0
  kPolicy = 4,      // the user asked for versions that the device does not have
  kPermission = 5,  // may not ask
  kFault = 6,       // anything else; the text says what
};

// Offer is the first message of both sides.
struct Offer {
  VersionSet versions = {};  // that this side can receive
  bool tls_allowed = false;
  Absence absence = Absence::kNone;
  std::string reason = {};  // for people; why `versions` is empty
};

// KeyMessage is the last message: the SPI and key under which its sender receives. Secret.
struct KeyMessage {
  Version version = Version::kAesGcm256;
  Spi spi;
  crypto::SaKey key;
};

// Refusal is what a side says that cannot go on.
enum class Refusal : std::uint8_t {
  kRxAssoc = 1,       // no Rx key could be had
  kMalformed = 2,     // the other's message made no sense
  kOtherVersion = 3,  // the other's message is of a protocol version that it does not speak
};

struct ErrorMessage {
  Refusal code = Refusal::kMalformed;
  std::string text;
};

using Message = std::variant<Offer, KeyMessage, ErrorMessage>;

// ParseError says what is wrong with a message.
struct ParseError {
  enum class Kind { kNotOurs, kOtherVersion, kTooLong, kTruncated, kBadField, kBadSpi, kBadKey };
  Kind kind = Kind::kBadField;
  const char* text = "";  // the end of a sentence: "the peer's message ..."
};

// MessageBytes is one message as octets. It wipes itself, for it may hold a key.
using MessageBytes = crypto::Secret<kMessageMax>;

// body_length checks a header of kMessageHeader octets and is the number of octets that follow it.
std::expected<std::size_t, ParseError> body_length(std::span<const std::uint8_t> header);

// parse reads exactly one message, header included. Texts come out printable, whatever came in.
std::expected<Message, ParseError> parse(std::span<const std::uint8_t> octets);

// serialize is the inverse of parse. Texts longer than kTextMax are cut.
MessageBytes serialize(const Offer& offer);
MessageBytes serialize(const KeyMessage& key);
MessageBytes serialize(const ErrorMessage& error);

// The messages of fizz's PSP upgrade protocol V0, each one TLV:
//
//     tag, 1 octet | length, 1 octet | value
//     tag 1, SA, length 40: SPI, 4 octets big-endian | PSP version, 1 | 0, 3 | key, 32, zero-padded
//     tag 0, Error, length 1: 0 internal, 1 rx-assoc failed
inline constexpr std::size_t kFizzHeader = 2;
inline constexpr std::size_t kFizzMax = kFizzHeader + 255;

struct FizzError {
  std::uint8_t code = 0;
};
inline constexpr std::uint8_t kFizzRxAssoc = 1;  // a code of FizzError

using FizzMessage = std::variant<KeyMessage, FizzError>;

// parse_fizz reads one whole TLV. What stands behind the 40 octets of an SA is skipped, as fizz
// does.
std::expected<FizzMessage, ParseError> parse_fizz(std::span<const std::uint8_t> octets);
MessageBytes serialize_fizz(const KeyMessage& key);
MessageBytes serialize_fizz(const FizzError& error);

}  // namespace psp::keyx
