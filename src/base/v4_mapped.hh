// SPDX-License-Identifier: Apache-2.0
//
// IPv4 addresses as IPv6 writes them, ::ffff:a.b.c.d (RFC 4291, section 2.5.5.2): how an IPv6
// socket sees its IPv4 peers, and how 16 octets hold an address of either family. In this form a
// peer is one peer whichever family his socket has: for lists of networks, limits for each asker,
// and what START proves. ::a.b.c.d, which looks much like it, is an IPv6 address.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace psp {

using Address16 = std::array<std::uint8_t, 16>;

inline constexpr std::array<std::uint8_t, 12> kV4MappedPrefix = {0, 0, 0, 0, 0,    0,
                                                                 0, 0, 0, 0, 0xff, 0xff};

// to_address16 takes the 4 octets of an IPv4 address or the 16 of an IPv6 one, in network order.
inline Address16 to_address16(std::span<const std::uint8_t> address) {
  Address16 out{};
  std::ranges::copy(kV4MappedPrefix, out.begin());
  std::ranges::copy(address, out.end() - static_cast<std::ptrdiff_t>(address.size()));
  return out;
}

// v4_of is where the IPv4 address stands in the 16 octets of an IPv6 one; null if it has none.
inline const std::uint8_t* v4_of(const void* octets) {
  const auto* from = static_cast<const std::uint8_t*>(octets);
  const bool mapped = std::equal(kV4MappedPrefix.begin(), kV4MappedPrefix.end(), from);
  return mapped ? from + kV4MappedPrefix.size() : nullptr;
}

}  // namespace psp
