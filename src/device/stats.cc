// SPDX-License-Identifier: Apache-2.0
//
// Sums. The counter column of wire/drop.h says which drop reason belongs to which of the eight. The
// variables in driver_stats() are named as that column: a reason that names a counter which is not
// there does not compile. What engines that have gone had counted is kept as one sum, so that no
// counter falls.
//
// Threading: see stats.hh.
#include "device/stats.hh"

#include <algorithm>

namespace psp::device {

void Totals::add(const StatsBlock& block) {
  const auto get = [](const StatsBlock::Counter& c) { return c.load(std::memory_order_relaxed); };
  rx_packets += get(block.rx_packets);
  rx_bytes += get(block.rx_bytes);
  tx_packets += get(block.tx_packets);
  tx_bytes += get(block.tx_bytes);
  for (std::size_t i = 0; i < drops.size(); ++i) drops[i] += get(block.drops[i]);
}

void Totals::add(const SavedTotals& saved) {
  rx_packets += saved.rx_packets;
  rx_bytes += saved.rx_bytes;
  tx_packets += saved.tx_packets;
  tx_bytes += saved.tx_bytes;
  for (std::size_t i = 0; i < drops.size(); ++i) drops[i] += saved.drops[i];
}

SavedTotals Totals::save() const {
  SavedTotals saved{.rx_packets = rx_packets,
                    .rx_bytes = rx_bytes,
                    .tx_packets = tx_packets,
                    .tx_bytes = tx_bytes};
  std::ranges::copy(drops, saved.drops.begin());
  return saved;
}

DriverStats Totals::driver_stats() const {
  std::uint64_t RX_ERROR = 0, RX_BAD = 0, RX_AUTH_FAIL = 0, TX_ERROR = 0, NONE = 0;
#define PSP_ADD_DROP_(name, number, counter, text) counter += drops[number];
  PSP_DROP_REASONS(PSP_ADD_DROP_)
#undef PSP_ADD_DROP_
  static_cast<void>(NONE);
  return {.rx_packets = rx_packets,
          .rx_bytes = rx_bytes,
          .rx_auth_fail = RX_AUTH_FAIL,
          .rx_error = RX_ERROR,
          .rx_bad = RX_BAD,
          .tx_packets = tx_packets,
          .tx_bytes = tx_bytes,
          .tx_error = TX_ERROR};
}

DriverStats& DriverStats::operator+=(const DriverStats& other) {
  rx_packets += other.rx_packets;
  rx_bytes += other.rx_bytes;
  rx_auth_fail += other.rx_auth_fail;
  rx_error += other.rx_error;
  rx_bad += other.rx_bad;
  tx_packets += other.tx_packets;
  tx_bytes += other.tx_bytes;
  tx_error += other.tx_error;
  return *this;
}

std::shared_ptr<StatsBlock> StatsRegistry::open() {
  auto block = std::make_shared<StatsBlock>();
  const std::lock_guard lock(mutex_);
  blocks_.push_back(block);
  return block;
}

void StatsRegistry::close(const std::shared_ptr<StatsBlock>& block) {
  const std::lock_guard lock(mutex_);
  retired_.add(*block);
  std::erase(blocks_, block);
}

void StatsRegistry::retire(const SavedTotals& before) {
  const std::lock_guard lock(mutex_);
  retired_.add(before);
}

Totals StatsRegistry::totals() const {
  const std::lock_guard lock(mutex_);
  Totals totals = retired_;
  for (const auto& block : blocks_) totals.add(*block);
  return totals;
}

}  // namespace psp::device
