// SPDX-License-Identifier: Apache-2.0
//
// For tests: a log that keeps its lines, to look for what an operator is told. A line is kept
// without its level: tests look for the words that somebody would act on. The Log refers to this
// object, which therefore outlives the code under test and does not move.
//
// Threading: that of the code under test.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "base/log.hh"

namespace psp::host::test {

class LogLines {
 public:
  const Log& log() const { return log_; }
  const std::vector<std::string>& lines() const { return lines_; }
  // has: a line of the log holds `text`.
  bool has(const std::string& text) const {
    return std::ranges::any_of(
        lines_, [&](const std::string& line) { return line.find(text) != std::string::npos; });
  }

 private:
  std::vector<std::string> lines_;
  Log log_{[this](LogLevel, std::string_view line) { lines_.emplace_back(line); }};
};

}  // namespace psp::host::test
