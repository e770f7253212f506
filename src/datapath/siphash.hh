// SPDX-License-Identifier: Apache-2.0
//
// SipHash-2-4 (Aumasson and Bernstein, 2012): the keyed hash that picks the UDP source port of a
// connection, and the place of an asker in the limits for probes. Keyed, so that the port on the
// wire tells nothing about the TCP ports inside, and nobody can choose addresses that share a
// place. Each user of it has a random key of its own. Checked against the paper's vectors in
// frame_test.cc.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace psp::datapath {

using SipKey = std::array<std::uint64_t, 2>;

namespace detail {

struct SipState {
  std::uint64_t a, b, c, d;

  void round() {
    a += b;
    c += d;
    b = std::rotl(b, 13) ^ a;
    d = std::rotl(d, 16) ^ c;
    a = std::rotl(a, 32);
    c += b;
    a += d;
    b = std::rotl(b, 17) ^ c;
    d = std::rotl(d, 21) ^ a;
    c = std::rotl(c, 32);
  }
  void absorb(std::uint64_t word) {
    d ^= word;
    round();
    round();
    a ^= word;
  }
};

inline std::uint64_t load_le(const std::uint8_t* p, std::size_t size) {
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < size; ++i) word |= std::uint64_t{p[i]} << (8 * i);
  return word;
}

}  // namespace detail

// siphash is the 64-bit SipHash-2-4 of `octets`.
inline std::uint64_t siphash(const SipKey& key, std::span<const std::uint8_t> octets) {
  detail::SipState s{key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
                     key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573};
  const std::uint8_t* p = octets.data();
  std::size_t left = octets.size();
  for (; left >= 8; p += 8, left -= 8) s.absorb(detail::load_le(p, 8));
  s.absorb(detail::load_le(p, left) | std::uint64_t{octets.size() & 0xff} << 56);
  s.c ^= 0xff;
  for (int i = 0; i < 4; ++i) s.round();
  return s.a ^ s.b ^ s.c ^ s.d;
}

}  // namespace psp::datapath
