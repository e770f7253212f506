// SPDX-License-Identifier: Apache-2.0
//
// What the kernel hands to a capture is not yet what stands on the wire: sealed packets travel
// joined as far as the NIC (UDP GSO), checksums are left to it, VLAN tags are taken out.
//
// All of that is put back, so that a capture on the sending host looks as one from a switch would.
// Whoever reads it need not know of offloads. Frames are given one at a time and are good until the
// next one.
#pragma once

#include <functional>

#include "pcap/record.hh"

#include "packet_ring.hh"

namespace psp::ctl {

// WireFrame is an Ethernet frame as the wire has it.
struct WireFrame {
  std::span<std::uint8_t> octets;
  std::uint32_t length = 0;        // larger than octets if the ring cut it
  std::span<std::uint8_t> packet;  // from the IP header on, empty if there is none
};

// for_each_wire_frame gives the frames of `frame` to `on_frame` one by one until it returns false;
// `room` is where those are made that have to be. Returns what the last call returned.
bool for_each_wire_frame(RingFrame& frame, pcap::Buffer& room,
                         const std::function<bool(const WireFrame&)>& on_frame);

}  // namespace psp::ctl
