// SPDX-License-Identifier: Apache-2.0
//
// between: the bounds of an option that takes a fraction, said in plain numbers when they are
// violated. CLI::Range would say "10000000.000000", and let "nan" in.
//
// The check has no name of its own, so --help shows the option as the program describes it. Used
// for times by psp-cat, psp-proxy and psp-sim; whole numbers have CLI::Range.
#pragma once

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <string>

namespace psp {

// Both bounds are allowed; what is no number at all is refused too, "nan" among it.
inline CLI::Validator between(double low, double high) {
  const auto check = [low, high](const std::string& text) -> std::string {
    double value = 0;
    if (CLI::detail::lexical_cast(text, value) && value >= low && value <= high) return {};
    return fmt::format("'{}' is not a number from {} to {}", text, low, high);
  };
  return CLI::Validator(check, "", "");
}

}  // namespace psp
