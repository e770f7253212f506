// SPDX-License-Identifier: Apache-2.0
//
// serve: a host under systemd. It starts it, tells the service manager how it stands, and hears
// signals: SIGHUP reads the configuration file again, all others stop it in order.
//
// Threading: the control thread, with stop_signals() blocked.
#pragma once

#include <expected>
#include <functional>

#include "base/log.hh"

#include "options.hh"

namespace psp {

// Again reads the command line and the configuration file once more, as parse_options does.
using Again = std::function<std::expected<Options, int>()>;

// serve returns the exit code, when a signal has ended it or it could not start.
int serve(const Options& options, const Log& log, const Again& again);

}  // namespace psp
