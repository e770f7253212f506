// SPDX-License-Identifier: Apache-2.0
//
// A table for each state, no wider than a page: rows are faults, columns what came and whether it
// was let in. The state is that after the segment, so what makes Tx to Full counts as Full. Counts
// are whole: how rare something is matters.
#include "tables.hh"

#include <fmt/format.h>

#include "device/state_table.h"
#include "sim/world.hh"

namespace psp::sim_tool {
namespace {

constexpr const char* kEvents[] = {"clear data", "clear control", "clear FIN", "PSP"};

void print_row(const sim::Coverage& coverage, unsigned state, std::size_t fault) {
  fmt::print("{:14}",
             fault == sim::kFaultsCounted ? "no fault" : sim::name_of(sim::kCountedFaults[fault]));
  for (unsigned event = 0; event < sim::Coverage::kEvents; ++event)
    for (const bool passed : {true, false}) {
      const std::uint64_t times =
          coverage.of({.state = state, .event = event, .passed = passed}, fault);
      fmt::print(" {:>9}", times == 0 ? std::string() : fmt::format("{}", times));
    }
  fmt::print("\n");
}

}  // namespace

void print_coverage(const sim::Coverage& coverage) {
  for (const auto& [row, columns] : coverage.cells())
    for (const auto& [column, times] : columns)
      fmt::print("{:28} {:20} {:>12}\n", row, column, times);
  for (unsigned state = 0; state < sim::Coverage::kStates; ++state) {
    fmt::print("\n{:14}", psp_state_name(state));
    for (const char* event : kEvents) fmt::print(" {:^19}", event);
    fmt::print("\n{:14}", "");
    for (std::size_t i = 0; i < std::size(kEvents); ++i)
      fmt::print(" {:>9} {:>9}", "in", "dropped");
    fmt::print("\n");
    for (std::size_t fault = sim::kFaultsCounted + 1; fault-- > 0;)
      print_row(coverage, state, fault);
  }
  fmt::print("\n");
}

}  // namespace psp::sim_tool
