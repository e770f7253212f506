// SPDX-License-Identifier: Apache-2.0
//
// A ring of the newest packets behind a mutex that nobody waits for: a worker that finds it taken
// leaves its packet out, as it does when the second is full.
//
// Threading: see packet_log.hh.
#include "device/packet_log.hh"

#include <algorithm>
#include <utility>

namespace psp::device {

PacketLog::PacketLog(std::shared_ptr<std::atomic<std::uint64_t>> numbers)
    : numbers_(numbers ? std::move(numbers) : std::make_shared<std::atomic<std::uint64_t>>(0)) {}

void PacketLog::offer(std::uint64_t nanoseconds, PacketPath path, std::optional<Drop> reason,
                      std::size_t length, std::span<const std::uint8_t> head,
                      std::span<const std::uint8_t> rest) {
  const std::uint64_t second = nanoseconds / 1'000'000'000;
  if (second_.exchange(second, std::memory_order_relaxed) != second)
    taken_.store(0, std::memory_order_relaxed);
  if (taken_.fetch_add(1, std::memory_order_relaxed) >= kPerSecond) {
    taken_.store(kPerSecond, std::memory_order_relaxed);  // so that it does not wrap
    return;
  }
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock) return;
  if (packets_.size() == kPackets) packets_.pop_front();
  LoggedPacket& packet = packets_.emplace_back();
  packet.number = numbers_->fetch_add(1, std::memory_order_relaxed) + 1;
  packet.nanoseconds = nanoseconds;
  packet.path = path;
  packet.reason = reason;
  packet.length = static_cast<std::uint32_t>(length);
  const std::size_t first = std::min(head.size(), kOctets);
  packet.octets.assign(head.begin(), head.begin() + static_cast<std::ptrdiff_t>(first));
  rest = rest.first(std::min(rest.size(), kOctets - first));
  packet.octets.insert(packet.octets.end(), rest.begin(), rest.end());
}

std::vector<LoggedPacket> PacketLog::packets() const {
  const std::lock_guard lock(mutex_);
  return {packets_.begin(), packets_.end()};
}

}  // namespace psp::device
