// SPDX-License-Identifier: Apache-2.0
//
// The command line, read by CLI11; ip(8)'s ways of writing options are first put into CLI11's.
//
// It is read in two parts, before the noun and behind it: behind `run` all is another program's,
// and behind `netlink` --json takes a value. So the noun must be known before the options are, and
// noun_at() knows which of them have values. What neither CLI11 nor a command takes is a mistake.
#include "options.hh"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <fmt/format.h>

#include "mistake.hh"

namespace psp::ctl {

namespace {

// Long options that ip(8) lets stand behind one dash too, in its spelling and in ours.
constexpr std::array<std::pair<std::string_view, std::string_view>, 14> kLongNames = {{
    {"json", "json"},
    {"pretty", "pretty"},
    {"statistics", "statistics"},
    {"stats", "statistics"},
    {"details", "details"},
    {"timestamp", "timestamp"},
    {"oneline", "oneline"},
    {"netns", "netns"},
    {"color", "color"},
    {"colour", "color"},
    {"help", "help"},
    {"version", "version"},
    {"Version", "version"},
    {"socket", "socket"},
}};

// normalise turns "-oneline" into "--oneline", and "-c" and "-color" into "--color=always".
std::string normalise(const std::string& argument) {
  if (argument.size() < 2 || argument[0] != '-' || argument == "--") return argument;
  const std::size_t dashes = argument[1] == '-' ? 2 : 1;
  const std::size_t equals = std::min(argument.find('='), argument.size());
  std::string_view name = std::string_view(argument).substr(dashes, equals - dashes);
  if (dashes == 1 && name == "c") name = "color";
  const auto found =
      std::ranges::find(kLongNames, name, [](const auto& pair) { return pair.first; });
  if (found == kLongNames.end()) return argument;
  if (found->second == "color" && equals == argument.size()) return "--color=always";
  return fmt::format("--{}{}", found->second, argument.substr(equals));
}

// takes_value: the argument behind this one is its value.
bool takes_value(std::string_view argument) {
  if (argument.starts_with("--"))
    return argument == "--netns" || argument == "--socket" || argument == "--peer";
  return argument.size() > 1 && argument[0] == '-' && argument.back() == 'n';  // -n, -jn
}

// noun_at is the position of the first word, or the end.
std::size_t noun_at(const std::vector<std::string>& arguments) {
  std::size_t at = 0;
  while (at < arguments.size() && arguments[at].starts_with("-"))
    at += takes_value(arguments[at]) ? 2 : 1;
  return std::min(at, arguments.size());
}

void declare(CLI::App& app, Options& options, Tail tail) {
  app.set_help_flag();
  app.add_flag(tail == Tail::kNetlink ? "-j" : "-j,--json", options.json);
  app.add_flag("-p,--pretty", options.pretty);
  app.add_flag("-s,--statistics", options.statistics);
  app.add_flag("-d,--details", options.details);
  app.add_flag("-t,--timestamp", options.timestamps);
  app.add_flag("-o,--oneline", options.oneline);
  app.add_flag("-h,--help", options.help);
  app.add_flag("-V,--version", options.version);
  app.add_flag_callback("-c", [&options] { options.colour = ColourWhen::kAlways; });
  app.add_option_function<std::string>(
         "--color",
         [&options](const std::string& when) {
           if (when != "auto" && when != "always" && when != "never")
             throw CLI::ValidationError("--color",
                                        fmt::format("\"{}\" is not auto, always or never", when));
           options.colour = when == "auto"     ? ColourWhen::kAuto
                            : when == "always" ? ColourWhen::kAlways
                                               : ColourWhen::kNever;
         })
      ->take_last();
  app.add_option("-n,--netns", options.netns)->type_size(1)->take_last();
  app.add_option("--socket", options.socket)->type_size(1)->take_last();
  app.add_option("--peer", options.peer)->type_size(1)->take_last();
  app.allow_extras();  // words; as a positional option CLI11 would take "[x]" for a list
  if (tail == Tail::kCapture) declare_capture(app, options.capture);
  if (tail != Tail::kNetlink) return;
  app.add_option("--json", options.request)->type_size(1)->take_last();
  app.add_flag("--dump", options.dump);
  app.add_flag("--show-keys", options.show_keys);
}

Outcome<void> parse(const std::vector<std::string>& arguments, Options& options, Tail tail) {
  CLI::App app;
  declare(app, options, tail);
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  try {
    app.parse(std::move(reversed));
  } catch (const CLI::ParseError& error) {
    return usage_error(error.what());
  }
  bool words_only = false;
  for (std::string& word : app.remaining()) {
    if (!words_only && word.size() > 1 && word[0] == '-') {
      words_only = word == "--";
      if (words_only) continue;
      return usage_error(unknown_option(word, options_of(app)) + "; see pspctl --help");
    }
    options.words.push_back(std::move(word));
  }
  return {};
}

}  // namespace

Outcome<Options> parse_options(const std::vector<std::string>& arguments, TailOf tail_of) {
  std::vector<std::string> before;
  std::ranges::transform(arguments, std::back_inserter(before), normalise);
  const std::size_t noun = noun_at(before);
  const Tail tail = noun == arguments.size() ? Tail::kWords : tail_of(arguments[noun]);
  std::vector<std::string> behind(before.begin() + static_cast<std::ptrdiff_t>(noun), before.end());
  before.resize(noun);
  Options options;
  if (tail == Tail::kProgram) {
    if (auto parsed = parse(before, options, tail); !parsed) return std::unexpected(parsed.error());
    options.words.assign(arguments.begin() + static_cast<std::ptrdiff_t>(noun), arguments.end());
    return options;
  }
  // What stands before the noun is not netlink's, so that "-json netlink" is as ever.
  if (auto parsed = parse(before, options, Tail::kWords); !parsed)
    return std::unexpected(parsed.error());
  if (auto parsed = parse(behind, options, tail); !parsed) return std::unexpected(parsed.error());
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
