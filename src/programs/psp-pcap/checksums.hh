// SPDX-License-Identifier: Apache-2.0
//
// Checksums of packets in captures, of what is on the wire and of what was sealed. Captures taken
// on the sending host have sums that the network card would complete: kIncomplete, no mistake
// outside, but a mistake inside, where nobody completes them any more.
//
// `packet` is a whole IP packet that `ip` was read from; its lengths are not looked at again.
#pragma once

#include <cstdint>
#include <span>

#include "wire/packet.hh"

namespace psp::pcap_tool {

enum class Sum : std::uint8_t {
  kNone,  // there is none to check
  kGood,
  kIncomplete,  // the pseudo header's: the rest was left to the network card
  kWrong,
};

// l4_checksum looks at the TCP or UDP checksum of the IP packet `packet`, read as `ip`. UDP may
// have none (0), with IPv6 too: RFC 6935 lets tunnels do that.
Sum l4_checksum(std::span<const std::uint8_t> packet, const wire::IpHeader& ip);

// ip_checksum looks at the header checksum of an IPv4 packet.
Sum ip_checksum(std::span<const std::uint8_t> packet, const wire::IpHeader& ip);

}  // namespace psp::pcap_tool
