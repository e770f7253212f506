// SPDX-License-Identifier: Apache-2.0
//
// check_port: is this a port, as a user writes it? A name is the resolver's to judge; of a number
// it takes the last sixteen bits, and another port than the one that was written would be meant.
//
// So numbers that are too large are refused before getaddrinfo sees them. 0 is left to the caller:
// for a listener it means any port that is free.
#pragma once

#include <charconv>
#include <expected>
#include <fmt/format.h>
#include <string>
#include <string_view>

namespace psp {

// Errors: a sentence.
inline std::expected<void, std::string> check_port(std::string_view text) {
  if (text.find_first_not_of("0123456789") != std::string_view::npos) return {};
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && value <= 65535) return {};
  return std::unexpected(fmt::format("{} is no port: ports end at 65535", text));
}

}  // namespace psp
