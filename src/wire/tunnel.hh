// SPDX-License-Identifier: Apache-2.0
//
// Tunnel mode:  outer IP | UDP | PSP header | whole inner IP packet | ICV, in all four combinations
// of families. What of the inner header shows outside, and what of the outer one comes back in:
//
//   DSCP     copied to the outside, or fixed; never copied back
//   ECN      RFC 6040, both ways
//   TTL      copied or fixed; the inner one is not touched: forwarding is not the tunnel's job
//   DF       IPv4 in IPv4: copied, and with it the identification; IPv6 in IPv4: set, since nobody
//            may fragment an IPv6 packet on its way
//   label    IPv6 in IPv6: copied; else 0, the UDP source port spreads the flows
//   options  of the inner packet stay inside; the outer header has none
//   fragments of an inner packet are packets and go through as they are; the outer packet is never
//            a fragment
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>

#include "wire/packet.hh"

namespace psp::wire {

// Protocol numbers of a packet inside a packet: PSP Next Header in tunnel mode.
inline constexpr std::uint8_t kProtocolIpv4 = 4;
inline constexpr std::uint8_t kProtocolIpv6 = 41;

// is_tunnel: a PSP packet with that Next Header holds a whole IP packet.
constexpr bool is_tunnel(std::uint8_t next_header) {
  return next_header == kProtocolIpv4 || next_header == kProtocolIpv6;
}

// IpAddress holds an address as on the wire; IPv4 uses the first 4 octets.
using IpAddress = std::array<std::uint8_t, 16>;

// Endpoints are the two ends of a tunnel. Their family is that of the outer header.
struct Endpoints {
  std::uint8_t family = 4;
  IpAddress source = {};
  IpAddress destination = {};
};

// TunnelPolicy is how outer headers are made. As it stands by itself it does what the reference
// implementation does: outer addresses, DSCP, ECN and TTL are those of the inner packet.
struct TunnelPolicy {
  std::optional<Endpoints> endpoints = {};     // nothing: those of the inner packet
  std::optional<std::uint8_t> hop_limit = {};  // nothing: the inner one
  std::optional<std::uint8_t> dscp = {};       // 0..63; nothing: the inner one
  bool copy_ecn = true;  // RFC 6040 normal mode; false: compatibility mode, outer is Not-ECT
};

// OuterIp is the outer header of one packet.
struct OuterIp {
  Endpoints endpoints = {};
  std::uint8_t traffic_class = 0;  // DSCP and ECN
  std::uint8_t hop_limit = 0;
  std::uint32_t flow_label = 0;        // IPv6
  std::uint16_t identification = 0;    // IPv4
  std::uint16_t fragment_control = 0;  // IPv4: the word with DF; never a fragment

  std::size_t header_length() const { return endpoints.family == 4 ? kIpv4Header : kIpv6Header; }
};

// outer_ip_of makes the outer header for the IP packet `clear`. Errors: those of parse_ip.
std::expected<OuterIp, Drop> outer_ip_of(std::span<const std::uint8_t> clear,
                                         const TunnelPolicy& policy);

// tunnel_size is the length of the PSP packet that a clear packet of `clear_size` octets becomes in
// a tunnel of that outer family.
constexpr std::size_t tunnel_size(std::size_t clear_size, std::uint8_t family, bool with_cookie) {
  return sealed_size(clear_size, with_cookie) + (family == 4 ? kIpv4Header : kIpv6Header);
}

// write_tunnel_outer writes outer IP, UDP (checksum 0) and PSP header of the tunnel-mode packet for
// `clear` to the start of `out`, as write_outer does in transport mode. The inner packet is
// `clear` up to its total length: padding stays behind. Errors: those of parse_ip,
// BAD_CRYPT_OFFSET, TX_TOO_BIG, TX_BAD_PACKET (no room in `out`).
std::expected<PspPacket, Drop> write_tunnel_outer(std::span<const std::uint8_t> clear,
                                                  const EncapOptions& options, const OuterIp& outer,
                                                  std::span<std::uint8_t> out);

// check_inner says whether `inner`, what was authenticated in a packet with that Next Header, is an
// IP packet of that family and of just that length. Returns BAD_INNER or nothing.
std::optional<Drop> check_inner(std::span<const std::uint8_t> inner, std::uint8_t next_header);

// ECN fields (RFC 3168).
inline constexpr std::uint8_t kNotEct = 0;
inline constexpr std::uint8_t kEct1 = 1;
inline constexpr std::uint8_t kEct0 = 2;
inline constexpr std::uint8_t kCe = 3;

// merged_ecn is the ECN field that leaves a tunnel, by the table of RFC 6040, section 4.2. Nothing:
// drop the packet (congestion was marked on a packet whose transport would not understand it).
std::optional<std::uint8_t> merged_ecn(std::uint8_t inner, std::uint8_t outer);

// merge_ecn brings what routers marked on the outer header at `outer` into the packet `inner`, and
// redoes the header checksum. Both have whole IP headers. Returns BAD_ECN or nothing.
std::optional<Drop> merge_ecn(std::span<std::uint8_t> inner, std::span<const std::uint8_t> outer);

}  // namespace psp::wire
