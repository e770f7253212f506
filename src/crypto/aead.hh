// SPDX-License-Identifier: Apache-2.0
//
// The cryptography of PSP behind one interface with two backends: ipsec-mb (fast, x86-64) and
// OpenSSL (everywhere). GMAC is GCM with nothing to encrypt and the whole packet as AAD, so both
// kinds of version go through the same two calls.
//
// What a caller must promise, because nothing here can notice it:
//
//   nonces  no (key, nonce) seals twice. Whoever sees two packets of one nonce learns the XOR of
//           their clear texts and the key of the authentication: they can forge any packet under
//           that key, with GMAC too. The nonce is SPI and IV, so an IV never comes again under one
//           key, in no thread, on no socket, in no clone of the machine (see seal.hh).
//   keys    a key seals in one direction, of one security association, at one sender.
//   open    nothing of `out` is used before open() has said true.
//   start   self_test() has passed for the backend in this process.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "crypto/secret.hh"
#include "wire/types.hh"

namespace psp::crypto {

// Aead seals and opens with one SA key at a time. Thread: one user at a time.
class Aead {
 public:
  virtual ~Aead() = default;

  // rekey installs the key of an SA; `key` has key_size(version) octets. No allocation.
  virtual void rekey(Version version, std::span<const std::uint8_t> key) = 0;

  // seal encrypts in.size() octets from `in` to `out` and writes the 16-octet ICV (PSP
  // specification, AES-GCM and AES-GMAC: docs/protocol.md, sections 3 and 4). `in` and `out` are
  // the same memory or do not overlap. `nonce` has 12 octets, and this key has not seen it (see
  // above).
  virtual void seal(const std::uint8_t* nonce, std::span<const std::uint8_t> aad,
                    std::span<const std::uint8_t> in, std::uint8_t* out, std::uint8_t* icv) = 0;

  // open decrypts from `in` to `out` and compares the ICV in constant time, also where there is
  // nothing to decrypt (section 4). False if it differs; `out` is then wiped, so that nothing
  // unauthenticated can be used by mistake.
  [[nodiscard]] virtual bool open(const std::uint8_t* nonce, std::span<const std::uint8_t> aad,
                                  std::span<const std::uint8_t> in, std::uint8_t* out,
                                  const std::uint8_t* icv) = 0;
};

// Kdf derives SA keys from one device key: SP 800-108 counter mode over AES-256-CMAC, as the PSP
// specification has it (docs/protocol.md, section 5). Thread: any, concurrently.
class Kdf {
 public:
  virtual ~Kdf() = default;

  // derive writes the key for (version, spi), key_size(version) octets. The whole SPI is the
  // context, its phase bit included. Versions 2 and 3 use the labels "Pv2" and "Pv3".
  void derive(Version version, Spi spi, SaKey& key) const;

  // cmac_block is the pseudo-random function of derive and all that a backend implements: the
  // AES-256-CMAC of one whole block under the device key. Both are 16 octets and do not overlap.
  virtual void cmac_block(const std::uint8_t* block, std::uint8_t* mac) const = 0;
};

// Backend makes both. Thread: any.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;    // "ipsec-mb", "openssl"
  virtual std::string description() const = 0;  // with version and instruction set, for people
  virtual std::unique_ptr<Aead> make_aead() const = 0;
  virtual std::unique_ptr<Kdf> make_kdf(const DeviceKey& key) const = 0;
};

// openssl_backend is always there. ipsec_mb_backend is null where the library was not built in or
// the processor lacks AES and carry-less multiplication.
const Backend& openssl_backend();
const Backend* ipsec_mb_backend();

// find_backend is the backend of that name; "auto" is the fastest one that is there. Null if none.
const Backend* find_backend(std::string_view name);

// self_test runs known answers (SP 800-38B, SP 800-38D, the PSP specification) and tampered inputs
// through a backend. Returns what failed, or nothing. A program that seals or opens calls it first
// and refuses to run on failure.
std::optional<std::string> self_test(const Backend& backend);

// random_bytes fills from the kernel's generator (getrandom). Aborts if there is none.
void random_bytes(std::span<std::uint8_t> out);

}  // namespace psp::crypto
