// SPDX-License-Identifier: Apache-2.0
//
// An SPI is an index on the circle, plus one, with the phase as the top bit. Whose it is can be
// told by how far it lies behind the first one of the key.
//
// Threading: see spi_allocator.hh.
#include "device/keys/spi_allocator.hh"

#include <algorithm>
#include <cerrno>

namespace psp::device {

SpiAllocator::SpiAllocator(unsigned phase, std::uint32_t first, std::uint32_t count)
    : phase_bit_(phase != 0 ? Spi::kPhaseBit : 0),
      first_(static_cast<std::uint32_t>((std::uint64_t{first & Spi::kIndexMask} + kCircle - 1) %
                                        kCircle)),
      count_(std::min(count, Spi::kIndexMask)) {}

SpiAllocator::SpiAllocator(unsigned phase, const SavedSpis& saved)
    : phase_bit_(phase != 0 ? Spi::kPhaseBit : 0),
      first_(saved.first),
      count_(saved.count),
      before_(saved.before),
      given_(saved.given) {}

SavedSpis SpiAllocator::save() const {
  return {.before = before_,
          .first = first_,
          .count = count_,
          .given = given_.load(std::memory_order_relaxed)};
}

// A packet under the SPI can come only after its number is known to the workers.
Result<Spi> SpiAllocator::allocate() {
  const std::uint32_t given = given_.load(std::memory_order_relaxed);
  if (given == count_) return fail(ENOSPC, "SPI space exhausted");
  given_.store(given + 1, std::memory_order_release);
  return at(given);
}

void SpiAllocator::take_back(Spi spi) {
  const std::uint32_t given = given_.load(std::memory_order_relaxed);
  if (given > count_ / 2 && at(given - 1).value == spi.value)
    given_.store(given - 1, std::memory_order_release);
}

Spi SpiAllocator::at(std::uint32_t place) const {
  const auto index = static_cast<std::uint32_t>((std::uint64_t{first_} + place) % kCircle);
  return Spi{phase_bit_ | (index + 1)};
}

std::uint64_t SpiAllocator::remaining() const {
  return count_ - given_.load(std::memory_order_relaxed);
}

std::shared_ptr<SpiAllocator> SpiAllocator::next() const {
  const std::uint64_t given = given_.load(std::memory_order_relaxed);
  const auto index = static_cast<std::uint32_t>((first_ + given) % kCircle);
  auto next = std::make_shared<SpiAllocator>(phase_bit_ != 0 ? 1 : 0, index + 1, count_);
  next->before_ = std::min(before_ + given, kCircle);
  return next;
}

Drop SpiAllocator::judge(Spi spi) const {
  const std::uint64_t index = (spi.value & Spi::kIndexMask) - 1;
  const std::uint64_t behind = (index + kCircle - first_) % kCircle;  // the first of this key
  if (behind < given_.load(std::memory_order_acquire)) return Drop::AUTH_FAIL;
  return kCircle - behind <= before_ ? Drop::STALE_KEY : Drop::UNKNOWN_KEY;
}

}  // namespace psp::device
