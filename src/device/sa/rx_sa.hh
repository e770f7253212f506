// SPDX-License-Identifier: Apache-2.0
//
// Rx security associations as a worker has them: none is kept. By the PSP specification the key of
// each is derived from its SPI and a device key (docs/protocol.md, section 5); RxSaCache only
// remembers some that were used: a fixed number, whatever the number of connections.
//
// Direct-mapped by (SPI, version), allocated at construction, filled by authenticated packets only,
// so that a flood of invented SPIs cannot push out the keys in use.
//
// Threading: one worker's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "crypto/aead.hh"
#include "wire/header.hh"

namespace psp::device {

// wipe_aead writes over the key schedules of both key sizes.
void wipe_aead(crypto::Aead& aead);

// RxSaCache opens packets under keys that it derives or remembers.
class RxSaCache {
 public:
  // `entries` is rounded up to a power of two; 0: derive for every packet.
  RxSaCache(const crypto::Backend& backend, std::size_t entries);
  ~RxSaCache();
  RxSaCache(const RxSaCache&) = delete;
  RxSaCache& operator=(const RxSaCache&) = delete;

  // open is crypto::open_datagram under the key of the header's SPI, of the device key `kdf`.
  // False: not authentic.
  [[nodiscard]] bool open(const crypto::Kdf& kdf, Version version, const wire::PspHeader& header,
                          std::span<const std::uint8_t> datagram, std::uint8_t* out);
  // forget wipes all keys: a device key was replaced.
  void forget();
  std::size_t octets() const;  // of memory

 private:
  struct Entry {
    Spi spi;  // reserved value 0: empty
    Version version = Version::kAesGcm128;
    std::unique_ptr<crypto::Aead> aead;
  };
  Entry* find(Spi spi, Version version);

  std::vector<Entry> entries_;
  std::unique_ptr<crypto::Aead> scratch_;
  crypto::SaKey derived_;
};

}  // namespace psp::device
