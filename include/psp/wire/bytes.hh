// SPDX-License-Identifier: Apache-2.0
//
// Big-endian loads and stores. No bounds checks: callers have checked the length.
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
