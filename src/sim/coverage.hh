// SPDX-License-Identifier: Apache-2.0
//
// Coverage: how often what was met with what: a table of counts by two words, which runs add to.
//
// A run that breaks no promise shows nothing if it never came near it. So what is counted are the
// cells of the state table, faults, deeds, answers of the core: psp-sim --coverage prints them, and
// tests ask for those that must not be 0. The tables are ordered, so that two can be compared. What
// happens for each packet has a table of its own, by numbers.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace psp::sim {

class Coverage {
 public:
  // Met is what a segment for a full socket has met: enum psp_state, enum psp_rx_event, a verdict.
  struct Met {
    unsigned state, event;
    bool passed;
  };
  static constexpr std::size_t kStates = 4, kEvents = 4, kFaultsMax = 32;
  // met counts that once for each fault, a bit each, that was there shortly before.
  void met(const Met& met, std::uint32_t faults) {
    auto& counts = met_[met.state % kStates][met.event % kEvents][met.passed];
    for (std::size_t i = 0; i < kFaultsMax; ++i) counts[i] += faults >> i & 1;
  }
  std::uint64_t of(const Met& met, std::size_t fault) const {
    return met_[met.state][met.event][met.passed][fault];
  }
  void count(std::string_view row, std::string_view column, std::uint64_t times = 1) {
    cells_[std::string(row)][std::string(column)] += times;
  }
  std::uint64_t of(const std::string& row, const std::string& column) const {
    const auto found = cells_.find(row);
    if (found == cells_.end()) return 0;
    const auto cell = found->second.find(column);
    return cell == found->second.end() ? 0 : cell->second;
  }
  const std::map<std::string, std::map<std::string, std::uint64_t>>& cells() const {
    return cells_;
  }

 private:
  std::map<std::string, std::map<std::string, std::uint64_t>> cells_;
  using Counts = std::array<std::uint64_t, kFaultsMax>;
  std::array<std::array<std::array<Counts, 2>, kEvents>, kStates> met_{};
};

}  // namespace psp::sim
