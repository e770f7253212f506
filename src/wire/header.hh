// SPDX-License-Identifier: Apache-2.0
//
// The PSP header: parser and writer side by side.
//
//   octet 0   next header         octet 2  R (2 bits) | crypt offset (6)      4..7   SPI
//   octet 1   header ext length   octet 3  S | D | version (4) | V | 1        8..15  IV
//   octets 16.. : virtualization cookie (8, if V), further extension; see docs/protocol.md
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <span>

#include "wire/drop.hh"
#include "wire/types.hh"

namespace psp::wire {

inline constexpr std::uint8_t kProtocolTcp = 6;
inline constexpr std::uint8_t kProtocolUdp = 17;

// PspHeader is a PSP header with the fields in host order.
struct PspHeader {
  std::uint8_t next_header = kProtocolTcp;
  std::uint8_t ext_length = 1;  // whole header in 8-octet units, the first 8 octets not counted
  CryptOffset crypt_offset = {};
  bool sample = false;                       // S: sample at the receiver
  bool drop_after_sampling = false;          // D
  std::uint8_t version_number = 0;           // 0..15; see version()
  std::optional<std::uint64_t> cookie = {};  // virtualization cookie; present iff V is set
  Spi spi = {};
  std::uint64_t iv = 0;

  // size is the whole header in octets, cookie and extensions included.
  constexpr std::size_t size() const { return 8 * (std::size_t{ext_length} + 1); }
  constexpr std::optional<Version> version() const { return to_version(version_number); }
  friend constexpr bool operator==(const PspHeader&, const PspHeader&) = default;
};

// parse_header reads the PSP header at the start of `datagram` (a UDP payload, ICV included).
// The cookie is returned as it stands in the octets: ciphertext if it lies behind the crypt offset.
// It does not judge the version or the SPI beyond their shape; reserved bits are ignored, as the
// specification wants (they are authenticated as received).
// Errors: TRUNCATED (no room for header and ICV), BAD_HEADER (length 0, fixed bit 0, V without
// room), BAD_CRYPT_OFFSET (beyond the end of the payload; the GMAC versions do not use the field,
// so it is not judged there).
std::expected<PspHeader, Drop> parse_header(std::span<const std::uint8_t> datagram);

// write_header writes header.size() octets to the start of `out`, reserved bits zero, extension
// octets behind the cookie zero. `out` must have room, and ext_length must be at least 1, or 2 with
// a cookie. Returns the number of octets written.
std::size_t write_header(std::span<std::uint8_t> out, const PspHeader& header);

// nonce_of is where the kNonce octets of the AEAD nonce, SPI and IV, stand in a PSP header.
inline const std::uint8_t* nonce_of(const std::uint8_t* header) { return header + 4; }

// crypt_offset_of reads the crypt offset of a PSP header that has not been parsed.
inline CryptOffset crypt_offset_of(const std::uint8_t* header) {
  return {static_cast<std::uint8_t>(header[2] & CryptOffset::kMaxUnits)};
}

}  // namespace psp::wire
