// SPDX-License-Identifier: Apache-2.0
//
// Packets that a device did not accept or could not send, and those that their senders want sampled
// (bit S of the PSP header), kept for whoever looks for faults. The newest ones, and only so many a
// second: a flood of bad packets costs what counting them costs.
//
// Threading: any. A worker never waits here: its packet is left out while another one writes.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "wire/drop.hh"

namespace psp::device {

enum class PacketPath : std::uint8_t { kReceive, kTransmit };

// LoggedPacket is an IP packet: received ones sealed, as they were on the wire; of one to be sent
// only the headers, for it is in clear.
struct LoggedPacket {
  std::uint64_t number = 0;       // from 1, in the order of their coming to the device
  std::uint64_t nanoseconds = 0;  // since 1970
  PacketPath path = PacketPath::kReceive;
  std::optional<Drop> reason = {};  // nothing: sampled
  std::uint32_t length = 0;         // of the whole packet
  std::vector<std::uint8_t> octets = {};
};

class PacketLog {
 public:
  static constexpr std::size_t kPackets = 64;   // kept
  static constexpr std::size_t kOctets = 2048;  // of a received packet
  static constexpr std::uint32_t kPerSecond = 64;

  // Numbers are counted in `numbers`, which other logs may share; none: by itself.
  explicit PacketLog(std::shared_ptr<std::atomic<std::uint64_t>> numbers = {});

  // offer takes a packet if there is room for it in this second. `head` and `rest` are what may be
  // kept of its `length` octets.
  void offer(std::uint64_t nanoseconds, PacketPath path, std::optional<Drop> reason,
             std::size_t length, std::span<const std::uint8_t> head,
             std::span<const std::uint8_t> rest);
  std::vector<LoggedPacket> packets() const;  // oldest first

 private:
  std::atomic<std::uint64_t> second_{0};
  std::atomic<std::uint32_t> taken_{0};  // in that second
  mutable std::mutex mutex_;
  std::deque<LoggedPacket> packets_;
  std::shared_ptr<std::atomic<std::uint64_t>> numbers_;
};

}  // namespace psp::device
