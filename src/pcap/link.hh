// SPDX-License-Identifier: Apache-2.0
//
// What is around an IP packet in a capture: Ethernet with up to two VLAN tags, MPLS, PPPoE, Linux
// cooked capture, loopback, or nothing; and the tunnels that carry a mirrored port's packets: GRE,
// ERSPAN, VXLAN, Geneve, IP in IP.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>
#include <string_view>

namespace psp::pcap {

// LinkHeader says where the IP packet of a frame starts, and which part of the frame is the link
// header of a packet that takes its place: what MPLS, PPPoE and tunnels add is left out of that.
struct LinkHeader {
  static constexpr std::size_t kNoType = ~std::size_t{0};
  std::size_t ip_at = 0;
  std::size_t head_at = 0, head_size = 0;
  std::size_t type_at = kNoType;  // EtherType in that header; kNoType: the link type has none
  std::uint8_t family = 0;        // of the IP packet, by the header in front; 0: it does not say
  std::uint8_t head_family = 0;   // of the IP packet directly behind the link header
  std::string_view shim = {};     // what stands between Ethernet and the packet: tags, MPLS, PPPoE
  std::string_view tunnel = {};   // the innermost tunnel around the packet
};

// NotIp is why there is no IP packet to be found. Not understood: there may be one all the same.
struct NotIp {
  bool understood = false;
  std::string_view why;
};

// Reach is how far find_ip looks: at the IP packet of the link layer, or into tunnels, up to a PSP
// packet or the innermost IP packet.
enum class Reach : std::uint8_t { kLink, kTunnels };

// find_ip finds the IP packet in a frame of that link type.
std::expected<LinkHeader, NotIp> find_ip(std::uint32_t link_type,
                                         std::span<const std::uint8_t> frame,
                                         Reach reach = Reach::kLink);

// write_head writes the link header that `link` found in `frame` to `out`, for an IP packet of
// `family`. False if the link type cannot say that family.
bool write_head(std::uint8_t* out, std::uint32_t link_type, std::span<const std::uint8_t> frame,
                const LinkHeader& link, std::uint8_t family);

}  // namespace psp::pcap
