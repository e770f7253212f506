// SPDX-License-Identifier: Apache-2.0
//
// The key derivation of PSP (docs/protocol.md, section 5): SP 800-108 in counter mode. One block of
// input for 128 bits of key:
//
//   0..3 counter, from 1   4..7 label "Pv0\0".."Pv3\0"   8..11 SPI   12..15 key length in bits
//
// The specification defines the labels of versions 0 and 1 and how to form more (the version goes
// into the third octet); "Pv2" and "Pv3" follow that.
#include <array>

#include "crypto/aead.hh"
#include "wire/bytes.hh"

namespace psp::crypto {

void Kdf::derive(Version version, Spi spi, SaKey& key) const {
  constexpr std::size_t kBlock = 16;
  const std::size_t size = key_size(version);
  const auto digit = static_cast<std::uint8_t>('0' + static_cast<unsigned>(version));
  std::array<std::uint8_t, kBlock> block = {0, 0, 0, 0, 'P', 'v', digit, 0};
  wire::store_be(block.data() + 8, spi.value);
  wire::store_be(block.data() + 12, static_cast<std::uint32_t>(8 * size));
  key.resize(size);
  for (std::size_t done = 0; done < size; done += kBlock) {
    ++block[3];
    cmac_block(block.data(), key.data() + done);
  }
}

}  // namespace psp::crypto
