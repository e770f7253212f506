// SPDX-License-Identifier: Apache-2.0
//
// The command line of psp-sim. Seed, steps and what is turned off decide what happens; the other
// options are about how many runs there are and what is shown of them.
//
// --only comes out as its opposite in `without`, so that a plan knows one form.
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <string>

#include "sim/plan.hh"

namespace psp::sim_tool {

struct Options {
  std::uint64_t seed = 1, seeds = 1, steps = 20000;
  double hours = 0;
  bool shrink = false, coverage = false;
  std::string trace;
  std::array<bool, sim::kFeatures> without{};
};

// parse_options: else the exit status.
std::expected<Options, int> parse_options(int argc, char** argv);

}  // namespace psp::sim_tool
