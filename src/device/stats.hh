// SPDX-License-Identifier: Apache-2.0
//
// The workers' counters and their sums. The eight counters of the PSP specification
// (docs/protocol.md, section 8) are not kept beside the drop reasons but computed from them, by the
// counter column of wire/drop.h: they cannot disagree.
//
// Threading: a StatsBlock is written by its one worker and read by anybody, relaxed; StatsRegistry
// is locked when engines come and go and when somebody asks.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "device/driver.hh"
#include "device/saved.hh"
#include "wire/drop.hh"

namespace psp::device {

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
  void add(const SavedTotals& saved);
  SavedTotals save() const;
  DriverStats driver_stats() const;
};

// StatsRegistry sums the counters of all engines there are and were. Thread: any.
class StatsRegistry {
 public:
  std::shared_ptr<StatsBlock> open();
  void close(const std::shared_ptr<StatsBlock>& block);
  Totals totals() const;
  // retire counts what engines of an earlier process have counted.
  void retire(const SavedTotals& before);

 private:
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<StatsBlock>> blocks_;
  Totals retired_;
};

}  // namespace psp::device
