// SPDX-License-Identifier: Apache-2.0
//
// SPIs begin at a random place: what a peer still sends under a key of an earlier instance is then
// told from a packet that was tampered with. A device key is dropped as soon as it is expanded,
// unless it is to be saved.
//
// Threading: see key_ring.hh.
#include "device/keys/key_ring.hh"

#include <algorithm>
#include <array>
#include <utility>

#include "wire/bytes.hh"

namespace psp::device {

KeyRing::KeyRing(KeyRingOptions options)
    : backend_(options.backend),
      random_(std::move(options.random)),
      phase_(options.phase & 1),
      enabled_(options.enabled),
      keep_keys_(options.keep_keys) {
  const std::uint8_t generation = options.generation & kGenerationMask;
  auto first = std::make_shared<RxSnapshot>();
  first->epoch = 1;  // an engine starts at 0: has none
  for (const unsigned phase : {phase_, phase_ ^ 1})
    first->slots[phase] = {make_kdf(phase), make_spis(phase, options.spis_of_a_key), generation,
                           phase == phase_};
  publish(std::move(first));
}

KeyRing::KeyRing(KeyRingOptions options, const SavedKeys& saved)
    : backend_(options.backend),
      random_(std::move(options.random)),
      phase_(saved.phase),
      enabled_{saved.enabled},
      keep_keys_(options.keep_keys) {
  auto first = std::make_shared<RxSnapshot>();
  first->epoch = saved.epoch;
  for (const unsigned phase : {0u, 1u}) {
    const SavedDeviceKey& key = saved.by_phase[phase];
    first->slots[phase] = {expand(phase, crypto::DeviceKey(key.key)),
                           std::make_shared<SpiAllocator>(phase, key.spis), key.generation,
                           key.live != 0};
  }
  publish(std::move(first));
}

bool KeyRing::save(SavedKeys& saved) const {
  if (!keep_keys_) return false;
  const auto current = snapshot();
  saved.epoch = current->epoch;
  saved.phase = phase_;
  saved.enabled = enabled_.bits;
  for (const unsigned phase : {0u, 1u}) {
    SavedDeviceKey& key = saved.by_phase[phase];
    std::ranges::copy(kept_[phase].span(), key.key.begin());
    key.spis = current->slots[phase].spis->save();
    key.generation = current->slots[phase].generation;
    key.live = current->slots[phase].live;
  }
  return true;
}

std::shared_ptr<const crypto::Kdf> KeyRing::make_kdf(unsigned phase) {
  crypto::DeviceKey key;
  key.resize(32);
  random_({key.data(), key.size()});
  return expand(phase, std::move(key));
}

std::shared_ptr<const crypto::Kdf> KeyRing::expand(unsigned phase, crypto::DeviceKey key) {
  auto kdf = backend_.make_kdf(key);
  if (keep_keys_) kept_[phase] = std::move(key);
  return kdf;
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
  next->slots[phase_] = {make_kdf(phase_), next->slots[phase_].spis->next(), generation, true};
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

void KeyRing::take_back(Spi spi) { snapshot()->slots[phase_].spis->take_back(spi); }

}  // namespace psp::device
