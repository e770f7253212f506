// SPDX-License-Identifier: Apache-2.0
//
// parse reads the command line of a program that may be told a version of PSP too. Who asks for
// --version and means that must not end up with a success that has sent nothing.
//
// So --version is for a command line that has nothing else on it; with more, it is an error of
// usage. psp-cat and psp-proxy read theirs by this; a script that checks nothing but the exit
// status hears of its mistake.
#pragma once

#include <CLI/CLI.hpp>
#include <expected>
#include <memory>
#include <optional>
#include <string>

#include "mistake.hh"
#include "plain_help.hh"

namespace psp {

// Nothing: it goes on. Else it ends with that status; `usage_error(text)` says what is wrong and
// gives the status for it.
template <typename UsageError>
std::optional<int> parse(CLI::App& app, int argc, const char* const* argv, UsageError usage_error) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForVersion& asked) {
    if (argc == 2) return app.exit(asked);
    return usage_error("--version stands alone; a version of PSP is chosen by --psp-version");
  } catch (const CLI::Success& asked) {
    return app.exit(asked);
  } catch (const CLI::ParseError& error) {
    return usage_error(mistake(app, error));
  }
  return std::nullopt;
}

// read_command_line: `declare(app, options, raw)` names the options, `refine(options, raw)` makes
// sense of what was given, and its errors are sentences. The error is an exit status.
template <typename Options, typename Raw, typename Declare, typename Refine, typename UsageError>
std::expected<Options, int> read_command_line(const std::string& program,
                                              const std::string& description, int argc,
                                              const char* const* argv, Declare declare,
                                              Refine refine, UsageError usage_error) {
  CLI::App app(description, program);
  app.formatter(std::make_shared<PlainHelp>());
  Options options;
  Raw raw;
  declare(app, options, raw);
  if (const auto status = parse(app, argc, argv, usage_error)) return std::unexpected(*status);
  if (const auto done = refine(options, raw); !done)
    return std::unexpected(usage_error(done.error()));
  return options;
}

}  // namespace psp
