// SPDX-License-Identifier: Apache-2.0
//
// SPIs of one device key: 1, 2, .. 2^31 - 1, with the phase as the top bit. A counter cannot
// repeat, needs no memory per SPI, and its end is plain to see.
#include <cerrno>

#include <psp/device/software_driver.hh>

namespace psp::device {

SpiAllocator::SpiAllocator(unsigned phase, std::uint32_t first)
    : phase_bit_(phase != 0 ? Spi::kPhaseBit : 0), next_(first & Spi::kIndexMask) {
  if (next_ == 0) next_ = 1;
}

Result<Spi> SpiAllocator::allocate() {
  if (next_ == 0) return fail(ENOSPC, "SPI space exhausted");
  const Spi spi{phase_bit_ | next_};
  next_ = next_ == Spi::kIndexMask ? 0 : next_ + 1;
  return spi;
}

std::uint64_t SpiAllocator::remaining() const {
  return next_ == 0 ? 0 : std::uint64_t{Spi::kIndexMask} - next_ + 1;
}

}  // namespace psp::device
