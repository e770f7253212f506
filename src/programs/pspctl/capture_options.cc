// SPDX-License-Identifier: Apache-2.0
//
// How the options of `pspctl capture` are read: their names, units and limits. As everywhere in
// pspctl the last one of a repeated option counts. What they mean together, and their help, is with
// the command (capture.cc).
#include "capture_options.hh"

#include <CLI/CLI.hpp>
#include <map>

namespace psp::ctl {

void declare_capture(CLI::App& app, CaptureOptions& options) {
  const std::map<std::string, std::uint64_t> units = {{"s", 1}, {"m", 60}, {"h", 3600}};
  app.add_option("--dev", options.device)->type_size(1)->take_last();
  app.add_option("-w,--write", options.file)->type_size(1)->take_last();
  app.add_option("--filter", options.filter)->type_size(1)->take_last();
  app.add_option("--key-log", options.key_log)->type_size(1)->take_last();
  app.add_flag("--failed", options.failed);
  app.add_option("--port", options.port)->check(CLI::Range(1, 65535))->take_last();
  app.add_option("--count", options.count)->check(CLI::PositiveNumber)->take_last();
  app.add_option("--duration", options.seconds)
      ->transform(CLI::AsNumberWithUnit(units, CLI::AsNumberWithUnit::CASE_SENSITIVE))
      ->check(CLI::PositiveNumber)
      ->take_last();
  app.add_option("--snaplen", options.snap_length)->check(CLI::Range(64, 262144))->take_last();
  app.add_option("--buffer", options.buffer_mib)->check(CLI::Range(1, 1024))->take_last();
}

}  // namespace psp::ctl
