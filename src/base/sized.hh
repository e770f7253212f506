// SPDX-License-Identifier: Apache-2.0
//
// C structs that the library fills and that can grow: the first field, `size`, is set by the caller
// to the size that the struct had when it was compiled, and nothing behind that is written. So a
// program that was built with an older psp/psp.h or psp/tls.h runs with a newer library. With an
// older library the fields at the end, which it does not know, stay as the caller has set them. For
// the two C interfaces (netlink/c_api.cc, keyx/c_api.cc).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace psp {

// fill gives *out, of which only `size` need be set, the octets of `value` that it has room for.
// False, and nothing is written: `size` is less than `least`, so it was not set.
template <typename T>
[[nodiscard]] bool fill(T* out, T value, std::size_t least = sizeof(std::size_t) + 1) {
  static_assert(offsetof(T, size) == 0);
  if (out->size < least) return false;
  value.size = out->size;
  std::memcpy(out, &value, std::min(value.size, sizeof value));
  return true;
}

// store_error fills the caller's psp_error, if it wants one. It has both texts or none.
template <typename Error>
void store_error(Error* err, const Error& value) {
  constexpr std::size_t kBoth = offsetof(Error, attr) + sizeof value.attr;
  if (err != nullptr) (void)fill(err, value, kBoth);  // who sets no size wants no words
}

}  // namespace psp
