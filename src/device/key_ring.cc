// SPDX-License-Identifier: Apache-2.0
//
// The two device keys of a driver: made here, expanded here, never handed out. Both are random from
// the start, so nothing that an earlier instance handed out can ever be valid; the one that is not
// active does not count until a rotation replaces it.
//
// Their SPIs begin at a random place: what a peer still sends under a key of an earlier instance is
// then told from a packet that was tampered with.
//
// Threading: see driver_state.hh.
#include <array>
#include <utility>

#include <psp/wire/bytes.hh>

#include "driver_state.hh"

namespace psp::device {

KeyRing::KeyRing(const SoftwareDriverOptions& options)
    : backend_(*options.backend),
      random_(options.random),
      phase_(options.phase & 1),
      enabled_(options.enabled) {
  const std::uint8_t generation = options.generation & kGenerationMask;
  auto first = std::make_shared<RxSnapshot>();
  first->epoch = 1;  // an engine starts at 0: has none
  for (const unsigned phase : {phase_, phase_ ^ 1})
    first->slots[phase] = {make_kdf(), make_spis(phase, options.spis_of_a_key), generation,
                           phase == phase_};
  publish(std::move(first));
}

std::shared_ptr<const crypto::Kdf> KeyRing::make_kdf() const {
  crypto::DeviceKey key;
  key.resize(32);
  random_({key.data(), key.size()});
  return backend_.make_kdf(key);
}

std::shared_ptr<SpiAllocator> KeyRing::make_spis(unsigned phase, std::uint32_t count) const {
  std::array<std::uint8_t, 4> start;
  random_(start);
  return std::make_shared<SpiAllocator>(phase, wire::load_be<std::uint32_t>(start.data()), count);
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
  next->slots[phase_] = {make_kdf(), next->slots[phase_].spis->next(), generation, true};
  publish(std::move(next));
}

void KeyRing::enable(VersionSet versions) {
  enabled_ = versions;
  control_.store(epoch_of(control_word()) << kEpochShift | versions.bits,
                 std::memory_order_release);
}

Result<RxKey> KeyRing::allocate(Version version) {
  const auto current = snapshot();
  const DeviceKeySlot& slot = current->slots[phase_];
  const Result<Spi> spi = slot.spis->allocate();
  if (!spi) return std::unexpected(spi.error());
  RxKey rx{*spi, {}};
  slot.kdf->derive(version, *spi, rx.key);
  return rx;
}

}  // namespace psp::device
