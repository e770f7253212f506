// SPDX-License-Identifier: Apache-2.0
//
// counted: a number and its noun, in the singular or the plural, for the sentences that programs
// say. "1 connections" is read as carelessness, by people who are to trust the rest of the line; so
// no program puts a number before a noun without it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace psp {

// counted is "1 packet" or "2 packets"; `many` is for nouns that take more than an s, and words
// behind them that change too: (n, "packet is", "packets are").
inline std::string counted(std::uint64_t number, std::string_view one, std::string_view many = {}) {
  std::string text = std::to_string(number) + ' ';
  if (number == 1) return text.append(one);
  return many.empty() ? text.append(one) += 's' : text.append(many);
}

}  // namespace psp
