// SPDX-License-Identifier: Apache-2.0
//
// mistake says in one sentence what is wrong with a command line that CLI11 does not take. A word
// that nobody knows comes first, whatever else is missing for it, with the one that was probably
// meant.
#pragma once

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <optional>
#include <string>
#include <vector>

#include "nearest.hh"

namespace psp {

// options_of are the names of a program's options, or a command's, as they are typed.
inline std::vector<std::string> options_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

// unknown_option is for one that was typed, with or without "=VALUE".
inline std::string unknown_option(const std::string& typed, const std::vector<std::string>& known) {
  const std::string option = typed.substr(0, typed.find('='));
  const std::size_t dashes = std::min(option.find_first_not_of('-'), option.size());
  return fmt::format("there is no option {}{}", option,
                     did_you_mean(nearest("--" + option.substr(dashes), known)));
}

// unknown_command: a program that has commands was given none of them.
inline std::optional<std::string> unknown_command(const CLI::App& app, const std::string& typed) {
  std::vector<std::string> commands;
  for (const CLI::App* command : app.get_subcommands({})) commands.push_back(command->get_name());
  if (commands.empty() || !app.get_subcommands().empty() || typed.starts_with('-'))
    return std::nullopt;
  return fmt::format("there is no command {}{}", typed, did_you_mean(nearest(typed, commands)));
}

inline std::string mistake(const CLI::App& app, const CLI::ParseError& error) {
  const auto unknown = app.remaining(true);
  if (unknown.empty()) return error.what();
  if (const auto command = unknown_command(app, unknown.front())) return *command;
  const auto chosen = app.get_subcommands();
  for (const std::string& word : unknown)
    if (word.size() > 1 && word[0] == '-' && word != "--")
      return unknown_option(word, options_of(chosen.empty() ? app : *chosen.front()));
  return fmt::format("\"{}\" is not expected", unknown.front());
}

}  // namespace psp
