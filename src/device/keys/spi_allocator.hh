// SPDX-License-Identifier: Apache-2.0
//
// SPIs of one device key. By the PSP specification the device chooses them, none twice under one
// device key, none with its low 31 bits zero, and the top bit says which of the two device keys it
// is (docs/protocol.md, section 5). They are a run of a circle of 2^31 - 1: a counter cannot
// repeat, needs no memory per SPI, and its end is plain to see.
//
// Threading: judge() from any thread; the rest on the control thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "device/error.hh"
#include "device/saved.hh"
#include "wire/drop.hh"
#include "wire/types.hh"

namespace psp::device {

// SpiAllocator hands out each of the 2^31 - 1 SPIs of a device key once, in a circle. The keys of a
// phase share the circle: one begins where the one before it ended, so that an SPI tells the key.
class SpiAllocator {
 public:
  // The first SPI is index `first` (1..2^31-1) with the phase (0 or 1) as its top bit. `count` is
  // for tests of the end of the space.
  SpiAllocator(unsigned phase, std::uint32_t first, std::uint32_t count = Spi::kIndexMask);
  SpiAllocator(unsigned phase, const SavedSpis& saved);
  SavedSpis save() const;
  Result<Spi> allocate();  // ENOSPC "SPI space exhausted"
  // take_back: nobody has seen the key of the SPI that was handed out last. It is used up all the
  // same, as the kernel's drivers do, until half of the space is; from then on it will be handed
  // out again, so that who asks in vain without end takes no SPIs from others.
  void take_back(Spi spi);
  std::uint64_t remaining() const;
  // next is for the key that takes this one's place.
  std::shared_ptr<SpiAllocator> next() const;
  // judge says why a packet under a valid SPI of this phase did not open: AUTH_FAIL if this key
  // gave the SPI out, STALE_KEY if one before it did, else UNKNOWN_KEY.
  Drop judge(Spi spi) const;

 private:
  static constexpr std::uint64_t kCircle = Spi::kIndexMask;

  Spi at(std::uint32_t place) const;

  std::uint32_t phase_bit_;
  std::uint32_t first_;  // 0..kCircle-1: index - 1
  std::uint32_t count_;
  std::uint64_t before_ = 0;  // SPIs of earlier keys, which end where this one begins
  std::atomic<std::uint32_t> given_{0};
};

}  // namespace psp::device
