// SPDX-License-Identifier: Apache-2.0
//
// ICMP errors as packets: what a router, or somebody who claims to be one, makes about a packet,
// and what TCP can read in one that arrives. Both families have them; only the numbers differ.
// Whether one is believed is the business of kernel_icmp.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "packet.hh"

namespace psp::sim {

// IcmpError is one about a TCP segment.
struct IcmpError {
  std::uint8_t type = 0, code = 0;
  std::uint32_t mtu = 0;  // that it tells, if it says "too big"
  Tuple tuple;            // of the segment, as its sender sees it
  std::uint32_t seq = 0;
  bool is_too_big() const { return tuple.family == 4 ? type == 3 && code == 4 : type == 2; }
  // error is what it comes to for an application, or 0: TCP does not hear of such a one.
  int error() const;
};

// Notice is what an ICMP error says; `rest` are the four octets behind its checksum.
struct Notice {
  std::uint8_t type = 0, code = 0;
  std::uint32_t rest = 0;
};

Notice too_big_for(unsigned family, std::uint32_t mtu);
// build_icmp is the error about a packet, to its sender, with `quoted` octets of it.
Octets build_icmp(const Notice& notice, std::span<const std::uint8_t> about, std::size_t quoted);
// parse_icmp reads one about a TCP segment. Nothing: it is none, is damaged or quotes too little.
std::optional<IcmpError> parse_icmp(std::span<const std::uint8_t> ip);
bool is_icmp(std::span<const std::uint8_t> ip);
// quote_of is the packet that an ICMP error quotes, as far as it does.
std::span<const std::uint8_t> quote_of(std::span<const std::uint8_t> ip);

}  // namespace psp::sim
