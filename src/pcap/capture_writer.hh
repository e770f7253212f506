// SPDX-License-Identifier: Apache-2.0
//
// A capture that is being made: the blocks of a pcapng file with one interface, written into a
// Buffer whose owner brings it to the file. In the byte order of this machine, as pcapng has it.
// pcapng and not pcap, for it has room for directions, comments, and at the end how many packets
// were missed. For `pspctl capture` and psp-sim; Rewriter (record.hh) is for captures that are
// there already.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "pcap/record.hh"

namespace psp::pcap {

// Direction of a packet as the interface sees it.
enum class Direction : std::uint8_t { kUnknown = 0, kIn = 1, kOut = 2 };

struct CaptureInterface {
  std::string_view name;    // of the netdev
  std::string_view filter;  // what was captured, for people
  std::string_view program;
  std::uint32_t link_type = kLinkEthernet;
  std::uint32_t snap_length = kMaxPacket;
};

struct CaptureCounts {
  std::uint64_t received = 0;  // by the filter, dropped ones too
  std::uint64_t dropped = 0;   // for want of room
};

// begin_capture appends section header and interface description.
void begin_capture(const CaptureInterface& interface, Buffer& out);

// CapturedPacket is a packet of which no more than interface.snap_length octets are there.
struct CapturedPacket {
  std::uint64_t nanoseconds = 0;  // since 1970
  Direction direction = Direction::kUnknown;
  std::span<const std::uint8_t> octets;
  std::uint32_t original = 0;  // its length on the wire
  std::string_view comment = {};
};

// add_packet appends a packet.
void add_packet(const CapturedPacket& packet, Buffer& out);

// end_capture appends the interface's statistics.
void end_capture(std::uint64_t nanoseconds, const CaptureCounts& counts, Buffer& out);

}  // namespace psp::pcap
