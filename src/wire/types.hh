// SPDX-License-Identifier: Apache-2.0
//
// The words of the protocol as types: what must not be mixed up cannot be mixed up. An SPI is no
// number to count with, a crypt offset is counted in units of 4 octets and asked for in octets, and
// a version is one of four that there are or none at all. All integers are in host order; what they
// are on the wire is known to the .cc files of this layer. For all C++ above; the BPF programs have
// the numbers from constants.h.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "wire/constants.h"

namespace psp {

// kUdpPort is the UDP destination port of every PSP packet, in both directions.
inline constexpr std::uint16_t kUdpPort = PSP_UDP_PORT;

// Version names the algorithms of a packet (PSP header, octet 3). Values are those of the wire and
// of Linux's `psp` netlink family.
enum class Version : std::uint8_t {
  kAesGcm128 = 0,
  kAesGcm256 = 1,
  kAesGmac128 = 2,  // authenticated, not encrypted
  kAesGmac256 = 3,  // authenticated, not encrypted
};
inline constexpr std::size_t kVersions = PSP_VERSIONS;

// key_size is the length of an SA key in octets.
constexpr std::size_t key_size(Version v) { return (static_cast<unsigned>(v) & 1u) ? 32 : 16; }

// encrypts is false for the GMAC versions, whose payload travels in clear.
constexpr bool encrypts(Version v) { return static_cast<unsigned>(v) < 2; }

// to_version is the version with that number, if there is one.
constexpr std::optional<Version> to_version(std::uint32_t number) {
  if (number >= kVersions) return std::nullopt;
  return static_cast<Version>(number);
}

// name is the kernel's name of a version, for example "hdr0-aes-gcm-128".
constexpr std::string_view name(Version v) {
  constexpr std::string_view names[kVersions] = {"hdr0-aes-gcm-128", "hdr0-aes-gcm-256",
                                                 "hdr0-aes-gmac-128", "hdr0-aes-gmac-256"};
  return names[static_cast<std::size_t>(v)];
}

// VersionSet is a set of versions: bit n stands for version n, as in psp-versions-cap.
struct VersionSet {
  std::uint32_t bits = 0;

  static constexpr VersionSet all() { return {0xf}; }
  constexpr bool has(Version v) const { return bits >> static_cast<unsigned>(v) & 1u; }
  constexpr bool contains(VersionSet other) const { return (other.bits & ~bits) == 0; }
  friend constexpr bool operator==(VersionSet, VersionSet) = default;
};

// Spi is a Security Parameters Index, chosen by the device that receives under it. Its top bit
// selects the device key, the others must not all be zero (docs/protocol.md, sections 1 and 5).
struct Spi {
  std::uint32_t value = 0;

  static constexpr std::uint32_t kPhaseBit = 0x8000'0000u;
  static constexpr std::uint32_t kIndexMask = 0x7fff'ffffu;

  constexpr unsigned phase() const { return value >> 31; }
  constexpr bool valid() const { return (value & kIndexMask) != 0; }
  friend constexpr auto operator<=>(Spi, Spi) = default;
};

// CryptOffset is how much of what follows the IV stays in clear, counted in units of 4 octets: of a
// cookie and other extensions first, then of the packet (docs/protocol.md, section 2). The GMAC
// versions do not use it.
struct CryptOffset {
  std::uint8_t units = 0;  // 0..63

  static constexpr std::uint8_t kMaxUnits = 63;
  constexpr std::size_t octets() const { return std::size_t{units} * 4; }
  friend constexpr bool operator==(CryptOffset, CryptOffset) = default;
};

// Lengths in octets.
inline constexpr std::size_t kPspBaseHeader = PSP_BASE_HEADER;
inline constexpr std::size_t kIcv = PSP_ICV;
inline constexpr std::size_t kNonce = 12;
inline constexpr std::size_t kVirtualizationCookie = 8;
inline constexpr std::size_t kUdpHeader = PSP_UDP_HEADER;
inline constexpr std::size_t kUdpChecksumAt = 6;  // in its header
inline constexpr std::size_t kIpv4Header = 20;    // without options
inline constexpr std::size_t kIpv6Header = 40;
// kTransportOverhead is what transport mode adds to a packet without cookie: 8 + 16 + 16.
inline constexpr std::size_t kTransportOverhead = PSP_OVERHEAD;

}  // namespace psp
