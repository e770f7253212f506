// SPDX-License-Identifier: Apache-2.0
//
// Half of the kinds are off in each run. The seed of the choice is not that of the run: what is
// taken out of a run changes nothing else about it but what follows from that.
//
// With all kinds on, faults would hide each other: nothing lives long enough to meet the second
// one. A number is drawn for each kind, also for one that is left out, so that the others stay as
// they are.
#include "plan.hh"

#include "random.hh"

namespace psp::sim {
namespace {

struct Words {
  std::string_view name, text;
};
constexpr Words kWords[kFeatures] = {
#define PSP_SIM_FEATURE_(name, text) {#name, text},
    PSP_SIM_FEATURES(PSP_SIM_FEATURE_)
#undef PSP_SIM_FEATURE_
};

}  // namespace

std::string_view name_of(Feature feature) { return kWords[static_cast<std::size_t>(feature)].name; }
std::string_view text_of(Feature feature) { return kWords[static_cast<std::size_t>(feature)].text; }

std::optional<Feature> feature_of(std::string_view name) {
  for (std::size_t i = 0; i < kFeatures; ++i)
    if (kWords[i].name == name) return static_cast<Feature>(i);
  return std::nullopt;
}

Plan make_plan(std::uint64_t seed, std::uint64_t steps,
               const std::array<bool, kFeatures>& without) {
  Plan plan{.seed = seed, .steps = steps, .without = without, .on = {}};
  Random random(seed ^ 0x5eed);
  for (std::size_t i = 0; i < kFeatures; ++i) {
    const bool chosen = random.chance(500'000);
    plan.on[i] = chosen && !without[i];
  }
  return plan;
}

}  // namespace psp::sim
