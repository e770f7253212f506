// SPDX-License-Identifier: Apache-2.0
//
// The command line, read by CLI11; the grammar of words is ours.
#include "options.hh"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fmt/format.h>

namespace psp::ctl {

Outcome<Options> parse_options(const std::vector<std::string>& arguments) {
  Options options;
  CLI::App app;
  app.set_help_flag();
  app.add_flag("-j,--json", options.json);
  app.add_flag("-p,--pretty", options.pretty);
  app.add_flag("-s,--statistics", options.statistics);
  app.add_flag("-d,--details", options.details);
  app.add_flag("-t,--timestamp", options.timestamps);
  app.add_flag("-h,--help", options.help);
  app.add_flag("-V,--version", options.version);
  app.add_option("--socket", options.socket)->type_size(1);
  app.add_option("--peer", options.peer)->type_size(1);
  app.add_option("words", options.words);
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  try {
    app.parse(std::move(reversed));
  } catch (const CLI::ParseError& error) {
    return usage_error(error.what());
  }
  return options;
}

bool Words::accept(std::string_view word) {
  if (done() || words_[next_] != word) return false;
  ++next_;
  return true;
}

Outcome<std::string> Words::take(std::string_view what) {
  if (done()) return usage_error(fmt::format("{} is missing", what));
  return words_[next_++];
}

Outcome<void> Words::expect_end() const {
  if (!done()) return usage_error(fmt::format("\"{}\" is not expected here", peek()));
  return {};
}

}  // namespace psp::ctl
