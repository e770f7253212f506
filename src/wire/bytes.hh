// SPDX-License-Identifier: Apache-2.0
//
// Big-endian loads and stores, the order of all numbers on the wire. No bounds checks: callers have
// checked the length. Alignment does not matter, and the compiler makes one instruction of each. By
// memcpy and no cast, since a field of a packet may lie at any address and is no object of that
// type. Headers are read and written by these, and so are the messages of the key exchange.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace psp::wire {

template <typename T>
inline T load_be(const std::uint8_t* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  if constexpr (sizeof(T) > 1 && std::endian::native == std::endian::little)
    value = std::byteswap(value);
  return value;
}

template <typename T>
inline void store_be(std::uint8_t* p, T value) {
  if constexpr (sizeof(T) > 1 && std::endian::native == std::endian::little)
    value = std::byteswap(value);
  std::memcpy(p, &value, sizeof value);
}

}  // namespace psp::wire
