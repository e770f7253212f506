// SPDX-License-Identifier: Apache-2.0
//
// IP packets around PSP, transport mode:  IP | UDP | PSP header | L4 | payload | ICV. Tunnel mode
// is in tunnel.hh. Everything here works on octets in memory and is bounds-checked; nothing here
// has a key.
#pragma once

#include <cstdint>
#include <expected>
#include <span>

#include "wire/drop.hh"
#include "wire/header.hh"
#include "wire/types.hh"

namespace psp::wire {

// IpHeader is what the datapath needs of an IP header.
struct IpHeader {
  std::uint8_t family = 4;          // 4 or 6
  std::uint8_t protocol = 0;        // of what follows the header (IPv6: next header)
  std::uint16_t header_length = 0;  // octets; IPv4 with its options, IPv6 always 40
  std::uint32_t total_length = 0;   // octets, header included, from the length field
  bool fragment = false;  // part of a packet, or IPv6 with a fragment header in first place
};

// parse_ip reads the IP header at the start of `packet`. Octets behind total_length (Ethernet
// padding) are allowed. Errors: TRUNCATED, BAD_IP, BAD_LENGTH (total length beyond the packet or
// shorter than the header).
std::expected<IpHeader, Drop> parse_ip(std::span<const std::uint8_t> packet);

// set_ip_payload writes a new payload length and protocol into the IP header at the start of
// `packet` and, for IPv4, redoes the header checksum. `ip` is what parse_ip returned for it.
void set_ip_payload(std::span<std::uint8_t> packet, const IpHeader& ip, std::size_t payload_length,
                    std::uint8_t protocol);

// PspPacket says where the parts of a PSP packet lie. All offsets count from the start of the IP
// header.
struct PspPacket {
  IpHeader ip = {};
  PspHeader header = {};
  std::size_t psp_offset = 0;    // PSP header; UDP header is 8 octets before
  std::size_t inner_offset = 0;  // first octet behind the whole PSP header
  std::size_t icv_offset = 0;    // ICV; the inner packet ends here
};

// parse_packet finds a PSP packet in transport or tunnel mode in `packet` (starting at the IP
// header) and checks all lengths against each other. Errors: those of parse_ip and parse_header,
// FRAGMENT, BAD_IP (not UDP to port 1000 directly behind the IP header, or IPv4 with a wrong header
// checksum: opening writes a new one and must not turn a damaged header into a good one). The UDP
// checksum is not looked at, the ICV is stronger.
std::expected<PspPacket, Drop> parse_packet(std::span<const std::uint8_t> packet);

// EncapOptions are the choices of a sender for one packet.
struct EncapOptions {
  Version version = Version::kAesGcm128;
  Spi spi = {};
  std::uint64_t iv = 0;
  CryptOffset crypt_offset = {};
  std::optional<std::uint64_t> cookie = {};
  std::uint16_t source_port = 0;
};

// sealed_size is the length of the PSP packet that a clear packet of `clear_size` octets becomes.
constexpr std::size_t sealed_size(std::size_t clear_size, bool with_cookie) {
  return clear_size + kTransportOverhead + (with_cookie ? kVirtualizationCookie : 0);
}

// write_outer writes IP (copied from `clear`, options included), UDP (checksum 0) and PSP header of
// the transport-mode packet for `clear` to the start of `out`. The inner packet and ICV are left to
// whoever has the key. Returns where they belong; its `ip` is the header as written. The GMAC
// versions are always sent with crypt offset 0. `out` does not overlap `clear`.
// Any protocol can be inside. IPv4 options stay in front. An IPv6 extension header in first place
// is the Next Header as any protocol is, but for those that routers read. Errors: those of
// parse_ip; TX_BAD_PACKET (a fragment, an IPv6 hop-by-hop or routing header, or no room in `out`),
// BAD_CRYPT_OFFSET, TX_TOO_BIG (over what an IP length field can say).
std::expected<PspPacket, Drop> write_outer(std::span<const std::uint8_t> clear,
                                           const EncapOptions& options,
                                           std::span<std::uint8_t> out);

}  // namespace psp::wire
