// SPDX-License-Identifier: Apache-2.0
//
// PacketRing takes frames off a netdev: a packet socket with a ring that the kernel fills
// (packet(7), TPACKET_V3) and the virtio-net header that says which frames are several packets on
// the wire. libpcap would hide that header, and only compiles the filter here.
//
// Threading: one user.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "base/unique_fd.hh"

#include "failure.hh"

namespace psp::ctl {

// RingFrame is a frame as the kernel handed it over, to be used before the next one is taken.
struct RingFrame {
  std::span<std::uint8_t> octets;  // from the Ethernet header on
  std::uint32_t length = 0;        // of all of it: larger if the ring cut it
  std::uint64_t nanoseconds = 0;   // since 1970
  bool outgoing = false;
  std::optional<std::uint16_t> vlan = {};  // tag that the NIC or the kernel took out
  // virtio-net header
  std::uint16_t segment =
      0;  // UDP GSO: octets of payload of each packet on the wire; 0: one packet
  bool checksum_missing = false;  // it is left to the NIC:
  std::uint16_t checksum_start = 0, checksum_offset = 0;
};

class PacketRing {
 public:
  struct Counts {
    std::uint64_t received = 0, dropped = 0;  // frames; received ones may have been dropped
  };

  // open begins to capture frames of the netdev that meet `filter` (pcap-filter(7)). Errors: kUsage
  // for the filter, kPermission without CAP_NET_RAW.
  static Outcome<PacketRing> open(const std::string& device, const std::string& filter,
                                  std::uint32_t mib);
  PacketRing(PacketRing&& other) noexcept;
  PacketRing& operator=(PacketRing&&) = delete;
  ~PacketRing();

  // fd is readable when frames wait, or has an error when the netdev has gone down.
  int fd() const { return fd_.get(); }
  // take gives the frames that are there to `on_frame` until it returns false.
  void take(const std::function<bool(RingFrame&)>& on_frame);
  // settle waits until all that has come is there to be taken.
  static void settle();
  // counts are those since the start.
  Counts counts();
  // check is the error of the socket, for example that the netdev is down.
  Outcome<void> check() const;

 private:
  PacketRing() = default;
  Outcome<void> attach_filter(const std::string& filter);
  Outcome<void> map(std::uint32_t mib);
  bool take_block(std::uint8_t* block, const std::function<bool(RingFrame&)>& on_frame);

  UniqueFd fd_;
  std::string device_;
  std::uint8_t* ring_ = nullptr;
  std::size_t size_ = 0, blocks_ = 0, next_ = 0;
  Counts counts_;
};

}  // namespace psp::ctl
