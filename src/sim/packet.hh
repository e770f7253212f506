// SPDX-License-Identifier: Apache-2.0
//
// Packets of the modelled kernel: struct sk_buff as far as anybody here looks, TCP segments as the
// model of TCP sees them, and the ways from one to the other. What offloads do is here too: big
// packets are cut into those of the wire, and trains of these are joined again.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "tcp_options.hh"

namespace psp::sim {

using Octets = std::vector<std::uint8_t>;
class Sock;

// Address is IPv4 in the first four octets.
struct Address {
  std::array<std::uint8_t, 16> octets{};
  bool operator==(const Address&) const = default;
  auto operator<=>(const Address&) const = default;
};

// Tuple is a connection as its owner sees it.
struct Tuple {
  unsigned family = 4;
  Address local{}, remote{};
  std::uint16_t local_port = 0, remote_port = 0;
  auto operator<=>(const Tuple&) const = default;
  Tuple turned() const { return {family, remote, local, remote_port, local_port}; }
};

// Skb is a packet inside a host, from its Ethernet header on.
struct Skb {
  Octets octets;
  std::uint32_t mark = 0;
  std::uint16_t tc_index = 0;
  std::uint32_t ingress_ifindex = 0;
  std::uint16_t gso_size = 0;
  bool gso_udp = false;         // UDP superframe, else TCP
  bool needs_checksum = false;  // of TCP or UDP: to be finished by who sends it
  bool trusted = false;         // its checksum has been looked at
  std::shared_ptr<Sock> sk{};   // whose packet it is, on the way out
  bool forged = false;          // by the enemy (for the observer; nobody else may look)
  bool opened = false;          // pspd has written it to its TAP (the same)
  unsigned place = 0;           // of the namespace where it began (the same)
  bool other_host = false;      // its address on the link is not this netdev's
  // An ICMP error as it came, before programs (the same).
  std::shared_ptr<const Octets> original{};
};

inline constexpr std::size_t kEthernet = 14;
// kBoxedAt is an octet of the destination on the link: 1 if that is a container's netdev, else 0.
// kFromBoxAt says the same of the source.
inline constexpr std::size_t kBoxedAt = 5, kFromBoxAt = 11;
inline constexpr std::uint16_t kFirstWindow = 60000;  // that a host offers in its SYN

// Segment is a TCP segment.
struct Segment {
  Tuple tuple;  // as the sender sees it
  std::uint32_t seq = 0, ack_seq = 0;
  std::uint16_t window = 0;
  bool syn = false, fin = false, rst = false, ack = false, psh = false, urg = false;
  std::uint16_t urgent = 0;
  Octets payload{};
  Options options{};
  bool reserved = false;  // 40 octets of NOP as IPv4 options: the reservation of the MSS
  std::uint16_t gso_size = 0;
  std::uint32_t end() const { return seq + static_cast<std::uint32_t>(payload.size()) + syn + fin; }
};

// build is the packet of a segment, its checksum left to the netdev.
Skb build(const Segment& segment);
// parse_segment reads an IP packet with TCP in it. Nothing: it is none, or is damaged. `check`: the
// checksum of TCP is looked at.
std::optional<Segment> parse_segment(std::span<const std::uint8_t> ip, bool check);
// parse_tuple is that of any TCP packet.
std::optional<Tuple> parse_tuple(std::span<const std::uint8_t> ip);

// cut makes packets of the wire of one that may be bigger, with all checksums.
std::vector<Octets> cut(const Skb& skb);
// join_next: `next` becomes part of `train` as GRO does it, or false.
bool join_next(Skb& train, const Octets& next);

// destination is the address that the packet is for.
std::optional<Address> destination(std::span<const std::uint8_t> ip, unsigned& family);
bool is_psp(std::span<const std::uint8_t> ip);
// psp_spi and psp_iv of what is_psp says is one.
struct PspNumbers {
  std::uint32_t spi;
  std::uint64_t iv;
};
std::optional<PspNumbers> psp_numbers(std::span<const std::uint8_t> ip);
bool ip_checksum_ok(std::span<const std::uint8_t> ip);

}  // namespace psp::sim
