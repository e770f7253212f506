// SPDX-License-Identifier: Apache-2.0
//
// printable: text that comes from others, for a terminal, which obeys the control characters in it.
// Whoever is root in a container gives its netdevs any name.
//
// Pure. Threading: any.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

namespace psp {

// is_printable: there is no control character in it. Takes no memory.
inline bool is_printable(std::string_view text) {
  return std::ranges::all_of(text, [](char octet) { return octet >= ' ' && octet < '\x7f'; });
}

// printable has a question mark for each octet of a control character: C0, DEL, and C1 in UTF-8.
inline std::string printable(std::string_view text) {
  std::string all;
  for (const char one : text) {
    const auto octet = static_cast<unsigned char>(one);
    const bool c1 = octet >= 0x80 && octet < 0xa0 && !all.empty() && all.back() == '\xc2';
    if (c1) all.back() = '?';
    all.push_back(octet < 0x20 || octet == 0x7f || c1 ? '?' : one);
  }
  return all;
}

}  // namespace psp
