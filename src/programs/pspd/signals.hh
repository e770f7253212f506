// SPDX-License-Identifier: Apache-2.0
//
// Which signals pspd takes, and how. All that would end it and that can wait are taken by the event
// loop: they stop it in order. One that says that the process itself is broken cannot wait: it
// leaves a line in the log, and the programs of a dead pspd, which block.
//
// Threading: before the first thread.
#pragma once

#include <string>
#include <vector>

namespace psp {

// stop_signals are those that stop pspd, and SIGHUP. SIGPIPE is not among them: it is ignored.
std::vector<int> stop_signals();

// signal_name is for the log: "SIGTERM", "signal 41".
std::string signal_name(int signal);

// block_stop_signals keeps them for the event loop, whatever thread they are sent to.
void block_stop_signals();

// report_crashes has SIGSEGV and its like say what has happened before they end the process.
void report_crashes();

}  // namespace psp
