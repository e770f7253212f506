// SPDX-License-Identifier: Apache-2.0
//
// What the control object of the software driver shares with its engines: device keys, Tx keys and
// statistics. Private to the device layer.
//
// Threading: KeyRing is written by the control thread and read by every worker. `control` is one
// atomic word (epoch and enabled versions) that a worker loads once per packet; only when the epoch
// differs from that of its snapshot does it take the mutex to pick up the new one. StatsBlock is
// written by its one worker and read by anybody, relaxed; StatsRegistry is locked when engines come
// and go and when somebody asks.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include <psp/device/software_driver.hh>

#include "tx_table.hh"

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

// KeyRing owns the device keys.
class KeyRing {
 public:
  explicit KeyRing(const SoftwareDriverOptions& options);

  // Control thread.
  void rotate(std::uint8_t generation);
  void enable(VersionSet versions);
  Result<RxKey> allocate(Version version);
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

  std::shared_ptr<const crypto::Kdf> make_kdf() const;
  std::shared_ptr<SpiAllocator> make_spis(unsigned phase, std::uint32_t count) const;
  void publish(std::shared_ptr<const RxSnapshot> next);

  const crypto::Backend& backend_;
  std::function<void(std::span<std::uint8_t>)> random_;
  unsigned phase_;
  VersionSet enabled_;

  alignas(64) std::atomic<std::uint64_t> control_{0};
  mutable std::mutex mutex_;
  std::shared_ptr<const RxSnapshot> snapshot_;  // under mutex_
};

// StatsBlock is one worker's counters. Plain load and store: there is one writer.
struct alignas(64) StatsBlock {
  using Counter = std::atomic<std::uint64_t>;
  Counter rx_packets{0}, rx_bytes{0}, tx_packets{0}, tx_bytes{0};
  std::array<Counter, PSP_DROP_MAX> drops{};

  static void add(Counter& counter, std::uint64_t n) {
    counter.store(counter.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
};

// Totals is a sum of StatsBlocks.
struct Totals {
  std::uint64_t rx_packets = 0, rx_bytes = 0, tx_packets = 0, tx_bytes = 0;
  std::array<std::uint64_t, PSP_DROP_MAX> drops{};

  void add(const StatsBlock& block);
  DriverStats driver_stats() const;
};

// StatsRegistry sums the counters of all engines there are and were. Thread: any.
class StatsRegistry {
 public:
  std::shared_ptr<StatsBlock> open();
  void close(const std::shared_ptr<StatsBlock>& block);
  Totals totals() const;

 private:
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<StatsBlock>> blocks_;
  Totals retired_;
};

struct SoftwareDriver::State {
  explicit State(SoftwareDriverOptions given);

  SoftwareDriverOptions options;
  std::atomic<std::size_t> engine_octets{0};  // Rx memory of all engines
  TxTable tx;
  StatsRegistry stats;
  PacketLog packets;
  KeyRing keys;
};

}  // namespace psp::device
