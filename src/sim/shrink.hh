// SPDX-License-Identifier: Apache-2.0
//
// shrink: what of a run's plan its failure needs. A run of a failure has half of all kinds of
// faults in it and thousands of packets; a few of these matter, and whoever looks for the cause
// wants those.
//
// It runs the world again and again, in this thread, with other plans of the same seed. The outcome
// is that of the smallest plan that was found, and can be repeated by it.
#pragma once

#include "world.hh"

namespace psp::sim {

struct Shrunk {
  Plan plan;
  Outcome outcome;
  unsigned runs = 0;
};

// shrink takes out of a plan that fails all kinds of hostility, faults and deeds without which it
// still fails, in some way, and the steps behind the failure.
Shrunk shrink(const Plan& plan, const Outcome& outcome);

}  // namespace psp::sim
