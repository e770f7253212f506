// SPDX-License-Identifier: Apache-2.0
//
// between: the bounds of an option that takes a fraction, said in plain numbers when they are
// violated (CLI::Range would say "1e+07").
#pragma once

#include <CLI/CLI.hpp>
#include <charconv>
#include <fmt/format.h>
#include <string>

namespace psp {

// Both bounds are allowed; what is no number at all is refused too, "nan" among it.
inline CLI::Validator between(double low, double high) {
  const auto check = [low, high](const std::string& text) -> std::string {
    double value = 0;
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error == std::errc{} && stop == end && value >= low && value <= high) return {};
    return fmt::format("'{}' is not a number from {} to {}", text, low, high);
  };
  return CLI::Validator(check, "", "");
}

}  // namespace psp
