// SPDX-License-Identifier: Apache-2.0
//
// Coverage: how often what was met with what: a table of counts by two words, which runs add to.
//
// A run that breaks no promise shows nothing if it never came near it. So what is counted are the
// cells of the state table, faults, deeds, answers of the core: psp-sim --coverage prints them, and
// tests ask for those that must not be 0. The table is ordered, so that two can be compared.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace psp::sim {

class Coverage {
 public:
  void count(std::string_view row, std::string_view column, std::uint64_t times = 1) {
    cells_[std::string(row)][std::string(column)] += times;
  }
  void add(const Coverage& other) {
    for (const auto& [row, columns] : other.cells_)
      for (const auto& [column, times] : columns) cells_[row][column] += times;
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
};

}  // namespace psp::sim
