// SPDX-License-Identifier: Apache-2.0
//
// One kind after the other, until none can go: a run is short. What is left need not be the least,
// for without one kind another can become needless or needed.
//
// Any breach counts, not only the one that was seen first: another is as good to look at. Each run
// also ends where it broke, so the steps behind that go for good.
#include "shrink.hh"

#include <algorithm>

namespace psp::sim {

Shrunk shrink(const Plan& plan, const Outcome& outcome) {
  Shrunk best{plan, outcome, 0};
  best.plan.steps = std::min(plan.steps, outcome.step);
  const auto attempt = [&best](const Plan& smaller) {
    Coverage coverage;
    ++best.runs;
    const Outcome found = World(smaller, coverage).run();
    if (!found.breach) return false;
    best.plan = smaller;
    best.outcome = found;
    best.plan.steps = std::min(smaller.steps, found.step);
    return true;
  };
  for (bool again = true; again;) {
    again = false;
    for (std::size_t i = 0; i < kFeatures; ++i) {
      if (!best.plan.on[i]) continue;
      Plan smaller = best.plan;
      smaller.without[i] = true;
      smaller.on[i] = false;
      again |= attempt(smaller);
    }
  }
  return best;
}

}  // namespace psp::sim
