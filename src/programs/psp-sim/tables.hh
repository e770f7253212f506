// SPDX-License-Identifier: Apache-2.0
//
// What runs have reached, for people: the counts by two words, then for each state of a socket what
// became of the segments that came to it, by the faults that their host had had within the last
// second. A cell that is empty is one that nobody has come to.
#pragma once

#include "sim/coverage.hh"

namespace psp::sim_tool {

void print_coverage(const sim::Coverage& coverage);

}  // namespace psp::sim_tool
