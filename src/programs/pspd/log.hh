// SPDX-License-Identifier: Apache-2.0
//
// pspd's log: lines on stderr, in colour if that is a terminal. systemd puts them into the journal.
//
// The libraries know a Log, which takes a level and a line, and not spdlog: so tests can read what
// an operator would (host/log_lines.hh). The level may change while pspd runs (SIGHUP).
//
// Threading: any.
#pragma once

#include <string>

#include "base/log.hh"

namespace psp {

// make_log begins the log of this program; set_log_level changes it. Levels: error, warn, info,
// debug.
Log make_log(const std::string& level);
void set_log_level(const std::string& level);

}  // namespace psp
