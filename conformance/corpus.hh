// SPDX-License-Identifier: Apache-2.0
//
// The conformance corpus as values: cases, made from a seed or read back from corpus.json.
// README.md describes the file for those who have nothing else of softpsp. Made by psp-conformance,
// read by corpus_test.cc; the runners for others (runner.c, runner.py) share no code with this.
//
// A name never changes its meaning, and the same seed gives the same octets on every machine. A
// test in CI makes the corpus again and compares.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "crypto/seal.hh"

namespace psp::conformance {

using Octets = std::vector<std::uint8_t>;

// kDefaultSeed is the seed of the corpus in this directory.
inline constexpr std::uint64_t kDefaultSeed = 0x505350;

// The device keys of the examples in the PSP specification.
inline constexpr const char* kDeviceKeyHex[2] = {
    "34448a064292601b11a0978f56a2d34cf3fc35ede1a6bc04f8db3e5243a2b0ca",
    "563952565d3a78ae773ec1b779f2f2d99f4a7f53a6fbb9b07d5b71f39364d739"};

// Case is one line of corpus.json. All packets start at the IP header.
struct Case {
  enum class Kind {
    kSeal,  // `clear` becomes `packet`, and back
    kOpen,  // `packet` opens to `clear`, but no sender makes it
    kDrop,  // `packet` is dropped
  };
  std::string name;
  Kind kind = Kind::kSeal;
  Octets clear;
  Octets packet;
  Drop reason = Drop::AUTH_FAIL;  // kDrop
  bool or_ignore = false;         // kDrop: a device may also not take it for PSP at all
  bool open_question = false;     // the specification leaves this case to the implementation

  // kSeal: what the sender was told.
  bool tunnel = false;
  bool mixed = false;  // tunnel whose outer header is of the other family
  Version version = Version::kAesGcm128;
  Spi spi = {};
  std::uint64_t iv = 0;
  CryptOffset crypt_offset = {};
  bool cookie = false;
  Octets extension;  // everything between the 16 octets of the PSP header and the inner packet
  std::uint16_t source_port = 0;
};

// Keys derives SA keys from the device keys of the corpus.
class Keys {
 public:
  explicit Keys(const crypto::Backend& backend);
  crypto::SaKey derive(Version version, Spi spi) const;
  // aead is an AEAD with that key in it, valid until the next call.
  crypto::Aead& aead(Version version, Spi spi);

 private:
  std::unique_ptr<crypto::Kdf> kdfs_[2];
  std::unique_ptr<crypto::Aead> aead_;
};

// seal makes the packet of a kSeal case out of the rest of it.
Octets seal(Keys& keys, const Case& one);

// receive is what softpsp does with a packet: the clear packet, or the reason why it is dropped.
std::expected<Octets, Drop> receive(Keys& keys, std::span<const std::uint8_t> packet);

// make_cases makes the corpus. The same seed gives the same cases, everywhere.
std::vector<Case> make_cases(Keys& keys, std::uint64_t seed);

// to_json is the whole file: a header, one case a line, an end. key_text is the SA's key in hex.
std::string to_json(const Keys& keys, const std::vector<Case>& cases, std::uint64_t seed);

// read_json reads what to_json wrote; empty if it is something else.
std::vector<Case> read_json(const std::string& text);

// from_hex and to_hex.
Octets from_hex(std::string_view hex);
std::string to_hex(std::span<const std::uint8_t> octets);

}  // namespace psp::conformance
