// SPDX-License-Identifier: Apache-2.0
//
// psp-sim: runs of the simulator, by their seeds; what has failed, and how to see it again.
//
// One seed is one run, whatever the machine: so a failure is a line that anybody can repeat, and
// the hash at the end says whether two builds did the same. Nothing here looks at the clock but for
// the end of --hours. The runs need no root and touch nothing of the host.
#include <chrono>
#include <cstdio>
#include <fmt/format.h>
#include <malloc.h>

#include "base/counted.hh"
#include "sim/shrink.hh"

#include "options.hh"
#include "tables.hh"
#include "trace.hh"

namespace psp::sim_tool {
namespace {

constexpr int kExitBroken = 1, kExitFile = 3;

struct Totals {
  std::uint64_t runs = 0, packets = 0, sealed = 0, connections = 0, broken = 0, hash = 0;
};

std::string without_of(const sim::Plan& plan) {
  std::string names;
  for (std::size_t i = 0; i < sim::kFeatures; ++i)
    if (plan.without[i])
      names +=
          fmt::format("{}{}", names.empty() ? "" : ",", sim::name_of(static_cast<sim::Feature>(i)));
  return names.empty() ? names : " --without " + names;
}

void report(const sim::Plan& plan, const sim::Outcome& outcome) {
  fmt::print("seed {}, step {}: {}\n  again: psp-sim --seed {} --steps {}{}\n", plan.seed,
             outcome.step, *outcome.breach, plan.seed, plan.steps, without_of(plan));
}

void report_shrunk(const sim::Plan& plan, const sim::Outcome& outcome) {
  const sim::Shrunk shrunk = sim::shrink(plan, outcome);
  fmt::print("  after {}, needs:", counted(shrunk.runs, "run"));
  for (std::size_t i = 0; i < sim::kFeatures; ++i)
    if (shrunk.plan.on[i]) fmt::print(" {}", sim::name_of(static_cast<sim::Feature>(i)));
  fmt::print("\n  ");
  report(shrunk.plan, shrunk.outcome);
}

int run(const Options& options) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double, std::ratio<3600>>(options.hours);
  sim::Coverage coverage;
  Totals totals;
  for (std::uint64_t seed = options.seed;; ++seed) {
    std::unique_ptr<Trace> trace;
    if (!options.trace.empty()) {
      auto opened = Trace::open(options.trace);
      if (!opened) {
        fmt::print(stderr, "error: {}\n", opened.error());
        return kExitFile;
      }
      trace = std::move(*opened);
    }
    sim::World::Tap tap;
    if (trace)
      tap = [&trace](auto at, auto to, const auto& packet, auto forged) {
        trace->add(at, to, packet, forged);
      };
    const sim::Plan plan = sim::make_plan(seed, options.steps, options.without);
    const sim::Outcome outcome = sim::World(plan, coverage, tap).run();
    if (trace) {
      if (const auto done = trace->finish(); !done) {
        fmt::print(stderr, "error: {}\n", done.error());
        return kExitFile;
      }
    }
    ++totals.runs;
    totals.packets += outcome.packets;
    totals.sealed += outcome.sealed;
    totals.connections += outcome.connections;
    totals.hash = totals.hash * 31 + outcome.hash;
    if (outcome.breach) {
      ++totals.broken;
      report(plan, outcome);
      if (options.shrink) report_shrunk(plan, outcome);
      std::fflush(stdout);
    }
    if (options.hours > 0 ? Clock::now() >= end : totals.runs == options.seeds) break;
  }
  if (options.coverage) print_coverage(coverage);
  fmt::print("{}, {} of which {} sealed, {}: {}; hash {:016x}\n", counted(totals.runs, "run"),
             counted(totals.packets, "packet"), totals.sealed,
             counted(totals.connections, "connection"),
             totals.broken == 0 ? "no promise broken" : fmt::format("{} BROKEN", totals.broken),
             totals.hash);
  return totals.broken == 0 ? 0 : kExitBroken;
}

}  // namespace
}  // namespace psp::sim_tool

int main(int argc, char** argv) {
  const auto options = psp::sim_tool::parse_options(argc, argv);
  if (!options) return options.error();
  // A pspd that starts takes a megabyte and soon gives it back: to this process, not to the system.
  (void)mallopt(M_MMAP_THRESHOLD, 1 << 30);
  (void)mallopt(M_TRIM_THRESHOLD, 1 << 30);
  return psp::sim_tool::run(*options);
}
