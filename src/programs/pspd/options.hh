// SPDX-License-Identifier: Apache-2.0
//
// pspd's command line and configuration file, which have the same options: a file is read under the
// command line, which wins. Nothing is looked up here: a netdev or a processor that is not there is
// the host's to find out.
//
// Threading: none.
#pragma once

#include <chrono>
#include <expected>
#include <optional>
#include <string>

#include "host/settings.hh"

namespace psp {

// Options are the host's settings and what is the program's own.
struct Options : host::Settings {
  std::string config;  // the file that some of these are from, or empty
  std::string log_level = "info";
  bool cleanup = false;
};

// parse_options reads argv. Without a value the program ends with that exit code: help and version
// are printed (0), or a mistake is explained (2).
std::expected<Options, int> parse_options(int argc, const char* const* argv);

// parse_duration reads "90s", "15m", "24h", "1d", "off".
std::optional<std::chrono::seconds> parse_duration(const std::string& text);

}  // namespace psp
