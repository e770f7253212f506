// SPDX-License-Identifier: Apache-2.0
//
// Keys for captures, as files: the key log, the configuration file of the reference implementation,
// a file with one key. Keys never come by the command line, which others can read.
//
// The key log is lines of text; docs/key-log.md is its definition. Two labels are known:
//
//   PSP_SA <version> <spi> <key> [<destination>]
//   PSP_DEVICE_KEY <index> <key> [<destination>]
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "crypto/secret.hh"
#include "wire/tunnel.hh"

namespace psp::pcap {

// kMaxKeyFile is the most octets that a file with keys may have.
inline constexpr std::size_t kMaxKeyFile = 64u << 20;

// IpHost is an IPv4 or IPv6 address, as that where packets under a key go to.
struct IpHost {
  std::uint8_t family = 4;
  wire::IpAddress octets = {};
  friend bool operator==(const IpHost&, const IpHost&) = default;
};

// parse_address reads an IPv4 or IPv6 address; to_text writes one.
std::optional<IpHost> parse_address(std::string_view text);
std::string to_text(const IpHost& address);

// KeyEntry is one key: that of an SA, or a device key from which the keys of SAs come.
struct KeyEntry {
  enum class Kind : std::uint8_t { kSa, kDevice };
  Kind kind = Kind::kSa;
  Version version = Version::kAesGcm128;  // kSa
  Spi spi = {};                           // kSa
  std::uint8_t index = 0;                 // kDevice: 0 or 1
  crypto::Secret<32> key = {};
  std::optional<IpHost> destination = {};  // only for packets to there; nothing: any
};

// parse_key_log reads a key log. Lines with other labels, empty lines and lines that begin with #
// are passed over. Errors name the line, never what stands in it.
std::expected<std::vector<KeyEntry>, std::string> parse_key_log(std::string_view text);

// key_log_line is the line of one entry, with a line end. It holds the key, once: wipe it.
std::string key_log_line(const KeyEntry& entry);

// Configuration is a configuration file of the reference implementation: two device keys and, in a
// file for encryption, how to encrypt.
struct Configuration {
  struct Sealing {
    Spi spi = {};
    bool tunnel = false;
    Version version = Version::kAesGcm128;
    CryptOffset transport_offset = {};
    CryptOffset ipv4_offset = {};  // in tunnel mode
    CryptOffset ipv6_offset = {};
    bool cookie = false;
  };
  std::array<crypto::DeviceKey, 2> device_keys;
  std::optional<Sealing> sealing;
};

// parse_configuration reads such a file. `sealing`: what stands behind the keys is needed; else it
// is not looked at, as the reference's decryptor does not.
std::expected<Configuration, std::string> parse_configuration(std::string_view text, bool sealing);

// parse_key reads a file with nothing but one key in hex, 16 or 32 octets, white space between
// octets allowed.
std::expected<crypto::Secret<32>, std::string> parse_key(std::string_view text);

}  // namespace psp::pcap
