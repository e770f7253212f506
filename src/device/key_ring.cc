// SPDX-License-Identifier: Apache-2.0
//
// The two device keys of a driver: made here, expanded here, never handed out. Both are random from
// the start, so nothing that an earlier instance handed out can ever be valid; the one that is not
// active does not count until a rotation replaces it.
//
// Threading: see driver_state.hh.
#include <utility>

#include "driver_state.hh"

namespace psp::device {

KeyRing::KeyRing(const SoftwareDriverOptions& options)
    : backend_(*options.backend),
      random_(options.random),
      first_spi_(options.first_spi),
      phase_(options.phase & 1),
      spis_(phase_, first_spi_),
      enabled_(options.enabled) {
  const std::uint8_t generation = options.generation & kGenerationMask;
  auto first = std::make_shared<RxSnapshot>();
  first->epoch = 1;  // an engine starts at 0: has none
  first->slots[phase_] = {make_kdf(), generation, true};
  first->slots[phase_ ^ 1] = {make_kdf(), generation, false};
  publish(std::move(first));
}

std::shared_ptr<const crypto::Kdf> KeyRing::make_kdf() const {
  crypto::DeviceKey key;
  key.resize(32);
  random_({key.data(), key.size()});
  return backend_.make_kdf(key);
}

// The snapshot goes first, then the word that makes workers look for it.
void KeyRing::publish(std::shared_ptr<const RxSnapshot> next) {
  const std::uint64_t epoch = next->epoch;
  {
    const std::lock_guard lock(mutex_);
    snapshot_.swap(next);
  }
  control_.store(epoch << kEpochShift | enabled_.bits, std::memory_order_release);
}

std::shared_ptr<const RxSnapshot> KeyRing::snapshot() const {
  const std::lock_guard lock(mutex_);
  return snapshot_;
}

void KeyRing::rotate(std::uint8_t generation) {
  auto next = std::make_shared<RxSnapshot>(*snapshot());
  phase_ ^= 1;
  ++next->epoch;
  next->slots[phase_] = {make_kdf(), generation, true};
  spis_ = SpiAllocator(phase_, first_spi_);
  publish(std::move(next));
}

void KeyRing::enable(VersionSet versions) {
  enabled_ = versions;
  control_.store(epoch_of(control_word()) << kEpochShift | versions.bits,
                 std::memory_order_release);
}

Result<RxKey> KeyRing::allocate(Version version) {
  const Result<Spi> spi = spis_.allocate();
  if (!spi) return std::unexpected(spi.error());
  RxKey rx{*spi, {}};
  snapshot()->slots[phase_].kdf->derive(version, *spi, rx.key);
  return rx;
}

}  // namespace psp::device
