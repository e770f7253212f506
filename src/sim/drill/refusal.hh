// SPDX-License-Identifier: Apache-2.0
//
// How a request of a script ends badly, and octets as they are in requests.
//
// Refused is an errno and its text, which the script may well expect. Lacks is what the model does
// not have: no script expects that.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "sim/packet.hh"

namespace psp::sim {

struct Refused {
  int number;
  std::string text{};
};

struct Lacks : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline std::string to_hex(std::span<const std::uint8_t> octets) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  for (const std::uint8_t octet : octets) {
    text += digits[octet >> 4];
    text += digits[octet & 15];
  }
  return text;
}

inline Octets from_hex(const std::string& text) {
  Octets octets;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2)
    octets.push_back(static_cast<std::uint8_t>(std::stoul(text.substr(i, 2), nullptr, 16)));
  return octets;
}

}  // namespace psp::sim
