// SPDX-License-Identifier: Apache-2.0
//
// What applications write: octets that are known from the stream and the place in it, so that a
// reader can check each one, and that are found wherever they appear: every other eight octets are
// the mark.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace psp::sim {

inline constexpr std::array<std::uint8_t, 8> kMark = {0xc1, 0xea, 0x12, 0x7e,
                                                      0x87, 0x5e, 0xc2, 0xe7};

// content_octet is the octet at `place` of a stream.
inline std::uint8_t content_octet(std::uint64_t stream, std::uint32_t place) {
  if ((place & 8) == 0) return kMark[place & 7];
  std::uint64_t z = stream * 0x9e3779b97f4a7c15u + place / 16;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return static_cast<std::uint8_t>(z >> (8 * (place & 7)));
}

inline void write_content(std::uint64_t stream, std::uint32_t place, std::span<std::uint8_t> out) {
  for (auto& octet : out) octet = content_octet(stream, place++);
}

}  // namespace psp::sim
