// SPDX-License-Identifier: Apache-2.0
//
// The command line by CLI11. Names of what can be turned off are those of sim::Feature; one that is
// not known is refused, with all that there are.
//
// A run is repeated by its command line, which main.cc prints: options that change what happens are
// the seed, the steps and what is turned off, and none else.
#include "options.hh"

#include <CLI/CLI.hpp>
#include <charconv>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "between.hh"
#include "mistake.hh"
#include "plain_help.hh"
#include "version_line.hh"

namespace psp::sim_tool {
namespace {

constexpr const char* kDescription =
    R"(psp-sim: two hosts with softpsp in one process, a hostile link between them, faults of every kind, in
virtual time. What happens follows from a seed; the promises of softpsp are watched at each step.)";

constexpr const char* kExamples = R"(
Examples:
  psp-sim --seeds 200                          200 runs, from seed 1 on
  psp-sim --seed 42 --shrink                   what of it the failure of seed 42 needs
  psp-sim --seed 42 --trace failure.pcapng     what was on the link
  psp-sim --hours 8 --seed 100000 --coverage   for eight hours, then what has been reached
Exit status: 0 all is well, 1 a promise was broken, 2 usage, 3 the trace cannot be written.)";

// whole_number: CLI11 would take -1 for the largest of all.
CLI::Validator whole_number(std::uint64_t least) {
  const auto check = [least](const std::string& text) -> std::string {
    std::uint64_t value = 0;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error == std::errc() && stop == end && value >= least) return {};
    return fmt::format("'{}' is not a whole number from {} to {}", text, least, UINT64_MAX);
  };
  return CLI::Validator(check, "", "");
}

// take_words turns off what is named.
std::expected<void, std::string> take_words(const std::vector<std::string>& words, bool only,
                                            Options& options) {
  if (only) options.without.fill(true);
  for (const std::string& word : words) {
    const auto feature = sim::feature_of(word);
    if (!feature) {
      std::vector<std::string_view> names;
      names.reserve(sim::kFeatures);
      for (std::size_t i = 0; i < sim::kFeatures; ++i)
        names.push_back(sim::name_of(static_cast<sim::Feature>(i)));
      return std::unexpected(fmt::format("\"{}\" is none of {}", word, fmt::join(names, ", ")));
    }
    options.without[static_cast<std::size_t>(*feature)] = !only;
  }
  return {};
}

std::unexpected<int> usage_error(const std::string& what) {
  fmt::print(stderr, "psp-sim: error: {}; see psp-sim --help\n", what);
  return std::unexpected(2);
}

}  // namespace

std::expected<Options, int> parse_options(int argc, char** argv) {
  Options options;
  std::vector<std::string> without, only;
  CLI::App app(kDescription);
  app.name("psp-sim");
  app.formatter(std::make_shared<PlainHelp>());
  app.footer(kExamples);
  app.set_version_flag("-V,--version", version_line("psp-sim"));
  app.add_option("--seed", options.seed, "First seed")
      ->check(whole_number(0))
      ->capture_default_str();
  auto* seeds = app.add_option("--seeds", options.seeds, "Runs, with one seed after the other")
                    ->check(whole_number(1))
                    ->capture_default_str();
  app.add_option("--steps", options.steps, "Steps of each run, before the calm at its end")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1'000'000'000}))
      ->capture_default_str();
  app.add_option("--hours", options.hours, "Go on for so long, whatever the number of runs")
      ->check(between(0, 10000))
      ->excludes(seeds);
  app.add_flag("--shrink", options.shrink, "Take out of a run what its failure does not need");
  app.add_option("--trace", options.trace, "Write the packets on the link; the last run's")
      ->type_name("FILE");
  app.add_flag("--coverage", options.coverage, "Say how often what was met with what");
  auto* off = app.add_option("--without", without, "What is not to happen, by its name")
                  ->delimiter(',')
                  ->type_name("NAMES");
  app.add_option("--only", only, "What alone may happen; none: nothing")
      ->delimiter(',')
      ->type_name("NAMES")
      ->excludes(off);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {
    return std::unexpected(app.exit(asked));
  } catch (const CLI::ParseError& error) {
    return usage_error(mistake(app, error));
  }
  if (only == std::vector<std::string>{"none"}) {
    options.without.fill(true);
    return options;
  }
  const auto taken = take_words(only.empty() ? without : only, !only.empty(), options);
  if (taken) return options;
  return usage_error(taken.error());
}

}  // namespace psp::sim_tool
