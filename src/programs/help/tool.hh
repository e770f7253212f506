// SPDX-License-Identifier: Apache-2.0
//
// name_tool: --help and --version of a program that is not installed, in the form of those that
// are. Such are the generator of the conformance corpus and what bench/ is made of.
//
// Their usage lines stand in the description that CLI::App was made with. Programs that are
// installed set the same by themselves, where they read their options.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "plain_help.hh"
#include "version_line.hh"

namespace psp {

inline void name_tool(CLI::App& app, const std::string& name) {
  app.name(name);
  app.formatter(std::make_shared<PlainHelp>());
  app.set_version_flag("-V,--version", version_line(name));
}

}  // namespace psp
