// SPDX-License-Identifier: Apache-2.0
//
// For tests of the software driver: a sender that is not the driver itself, and a backend that
// counts what is asked of it. The sender has its key from rx_spi_alloc alone, as a peer does, so
// that driver and test cannot agree on something wrong but in crypto/seal, which has its own
// vectors. The count tells whether a cache saves a derivation, and whether device keys go when they
// must.
#pragma once

#include <atomic>
#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "crypto/seal.hh"
#include "device/software_driver.hh"

namespace psp::device::test {

using Octets = std::vector<std::uint8_t>;

inline std::vector<const crypto::Backend*> backends() {
  std::vector<const crypto::Backend*> all = {&crypto::openssl_backend()};
  if (crypto::ipsec_mb_backend() != nullptr) all.push_back(crypto::ipsec_mb_backend());
  return all;
}

inline const char* backend_name(const crypto::Backend* backend) {
  return backend == &crypto::openssl_backend() ? "OpenSsl" : "IpsecMb";
}

constexpr Version kAllVersions[] = {Version::kAesGcm128, Version::kAesGcm256, Version::kAesGmac128,
                                    Version::kAesGmac256};

inline Octets pattern(std::size_t size) {
  Octets octets(size);
  for (std::size_t i = 0; i < size; ++i) octets[i] = static_cast<std::uint8_t>(i * 73 + 29);
  return octets;
}

// Packet is what seal() makes a datagram of.
struct Packet {
  Version version = Version::kAesGcm128;
  std::uint64_t iv = 1;
  CryptOffset crypt_offset{};
  std::optional<std::uint64_t> cookie{};
  std::uint8_t ext_length = 1;
  Octets inner = pattern(100);
};

// seal makes a PSP datagram with the key of a peer.
inline Octets seal(const crypto::Backend& backend, Spi spi, std::span<const std::uint8_t> key,
                   const Packet& packet) {
  wire::PspHeader header;
  header.ext_length =
      packet.cookie ? std::max<std::uint8_t>(packet.ext_length, 2) : packet.ext_length;
  header.crypt_offset = packet.crypt_offset;
  header.version_number = static_cast<std::uint8_t>(packet.version);
  header.cookie = packet.cookie;
  header.spi = spi;
  header.iv = packet.iv;
  Octets datagram(header.size() + packet.inner.size() + kIcv);
  wire::write_header(datagram, header);
  const auto aead = backend.make_aead();
  aead->rekey(packet.version, key);
  crypto::seal_datagram(*aead, packet.version, datagram, header.size(), packet.inner);
  return datagram;
}

// CountingBackend passes everything on and counts the 16-octet blocks of key it derives (one for an
// AES-128 key) and the device keys in existence.
class CountingBackend final : public crypto::Backend {
 public:
  explicit CountingBackend(const crypto::Backend& real) : real_(real) {}
  std::string_view name() const override { return "counting"; }
  std::string description() const override { return "counting"; }
  std::unique_ptr<crypto::Aead> make_aead() const override { return real_.make_aead(); }
  std::unique_ptr<crypto::Kdf> make_kdf(const crypto::DeviceKey& key) const override {
    return std::make_unique<CountingKdf>(*this, real_.make_kdf(key));
  }

  mutable std::atomic<int> key_blocks{0};
  mutable std::atomic<int> device_keys{0};

 private:
  class CountingKdf final : public crypto::Kdf {
   public:
    CountingKdf(const CountingBackend& owner, std::unique_ptr<crypto::Kdf> real)
        : owner_(owner), real_(std::move(real)) {
      ++owner_.device_keys;
    }
    ~CountingKdf() override { --owner_.device_keys; }
    void cmac_block(const std::uint8_t* block, std::uint8_t* mac) const override {
      ++owner_.key_blocks;
      real_->cmac_block(block, mac);
    }

   private:
    const CountingBackend& owner_;
    std::unique_ptr<crypto::Kdf> real_;
  };
  const crypto::Backend& real_;
};

}  // namespace psp::device::test
