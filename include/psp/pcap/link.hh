// SPDX-License-Identifier: Apache-2.0
//
// What is around an IP packet in a capture: Ethernet with up to two VLAN tags, Linux cooked
// capture, loopback, or nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace psp::pcap {

// Link says where the IP packet of a frame starts. `type_at` is where the EtherType stands, or
// kNoType if the link type has none.
struct Link {
  static constexpr std::size_t kNoType = ~std::size_t{0};
  std::size_t ip_at = 0;
  std::size_t type_at = kNoType;
  std::uint8_t family = 0;  // by the link layer; 0: it does not say
};

// find_ip finds the IP packet in a frame of that link type. Nothing: the frame has none, or the
// link type is not understood (see understands).
std::optional<Link> find_ip(std::uint32_t link_type, std::span<const std::uint8_t> frame);

// understands: find_ip knows the link type.
bool understands(std::uint32_t link_type);

// set_family notes in the copy of a link header at `header` that an IP packet of `family` follows.
// False if the link type cannot say that.
bool set_family(std::uint8_t* header, std::uint32_t link_type, const Link& link,
                std::uint8_t family);

}  // namespace psp::pcap
