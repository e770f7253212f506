// SPDX-License-Identifier: Apache-2.0
//
// The two device keys of a driver, which the PSP specification calls master keys (docs/protocol.md,
// section 5): made here, expanded here, and handed out only to be saved. Both are random from the
// start, so nothing that an earlier instance handed out can ever be valid; the one that is not
// active does not count until a rotation replaces it.
//
// Threading: written by the control thread, read by every worker. The control word is one atomic
// (epoch and enabled versions) that a worker loads once per packet; only when the epoch differs
// from that of its snapshot does it take the mutex to pick up the new one.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>

#include "crypto/aead.hh"
#include "device/driver.hh"
#include "device/keys/spi_allocator.hh"
#include "device/saved.hh"

namespace psp::device {

// DeviceKeySlot is one of the two device keys, expanded, and its SPIs. Not live: nothing was ever
// handed out under it, so nothing can match.
struct DeviceKeySlot {
  std::shared_ptr<const crypto::Kdf> kdf;
  std::shared_ptr<SpiAllocator> spis;
  std::uint8_t generation = 0;
  bool live = false;
};

// RxSnapshot is both device keys as of an epoch. Immutable once published.
struct RxSnapshot {
  std::uint64_t epoch = 0;
  std::array<DeviceKeySlot, 2> slots;  // by SPI phase
};

// KeyRingOptions: what the first device key is like, and where keys come from.
struct KeyRingOptions {
  const crypto::Backend& backend;
  std::function<void(std::span<std::uint8_t>)> random;
  unsigned phase = 0;
  std::uint8_t generation = 0;
  VersionSet enabled{};
  std::uint32_t spis_of_a_key = Spi::kIndexMask;
  bool keep_keys = false;  // so that they can be saved
};

// KeyRing owns the device keys.
class KeyRing {
 public:
  explicit KeyRing(KeyRingOptions options);
  KeyRing(KeyRingOptions options, const SavedKeys& saved);

  // Control thread. save: false if the keys are not kept.
  [[nodiscard]] bool save(SavedKeys& saved) const;
  void rotate(std::uint8_t generation);
  void enable(VersionSet versions);
  Result<RxKey> allocate(Version version);
  // take_back is allocate undone, if that was the last one.
  void take_back(Spi spi);
  std::uint64_t spi_remaining() const { return snapshot()->slots[phase_].spis->remaining(); }

  // Any thread. control_word: what to compare per packet.
  std::uint64_t control_word() const { return control_.load(std::memory_order_acquire); }
  static std::uint64_t epoch_of(std::uint64_t control) { return control >> kEpochShift; }
  static VersionSet enabled_of(std::uint64_t control) {
    return {static_cast<std::uint32_t>(control & kEnabledMask)};
  }
  std::shared_ptr<const RxSnapshot> snapshot() const;

 private:
  static constexpr unsigned kEpochShift = 8;
  static constexpr std::uint64_t kEnabledMask = 0xff;

  std::shared_ptr<const crypto::Kdf> make_kdf(unsigned phase);
  std::shared_ptr<const crypto::Kdf> expand(unsigned phase, crypto::DeviceKey key);
  std::shared_ptr<SpiAllocator> make_spis(unsigned phase, std::uint32_t count) const;
  void publish(std::shared_ptr<const RxSnapshot> next);

  const crypto::Backend& backend_;
  std::function<void(std::span<std::uint8_t>)> random_;
  unsigned phase_;
  VersionSet enabled_;
  bool keep_keys_;
  std::array<crypto::DeviceKey, 2> kept_;  // by phase

  alignas(64) std::atomic<std::uint64_t> control_{0};
  mutable std::mutex mutex_;
  std::shared_ptr<const RxSnapshot> snapshot_;  // under mutex_
};

}  // namespace psp::device
