// SPDX-License-Identifier: Apache-2.0
//
// The log over spdlog, which knows the level and drops what is below. A line of the libraries is
// text already: braces in it mean nothing.
//
// On a terminal the level is a word in colour; else it is not in the line: systemd's journal has
// each line of standard error as it is.
#include "log.hh"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include "base/printable.hh"

namespace psp {
namespace {

spdlog::level::level_enum level_of(LogLevel level) {
  switch (level) {
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      break;
  }
  return spdlog::level::err;
}

}  // namespace

Log make_log(const std::string& level) {
  auto log = spdlog::stderr_color_mt("pspd");
  log->set_pattern(::isatty(STDERR_FILENO) ? "%n: %^%v%$" : "%n: %v");
  spdlog::set_default_logger(log);
  set_log_level(level);
  return Log([log](LogLevel of, std::string_view line) {
    if (is_printable(line)) return log->log(level_of(of), line);  // also where memory has run out
    log->log(level_of(of), printable(line));
  });
}

void set_log_level(const std::string& level) { spdlog::set_level(spdlog::level::from_str(level)); }

}  // namespace psp
