// SPDX-License-Identifier: Apache-2.0
//
// The bulk of psp-cat: standard input to the peer, the peer to standard output, both at once, until
// both have ended. Under PSP these are plain reads and writes: the socket is secured below; where
// TLS was kept they go through it.
//
// Success means that the other end's TCP has all of it, so a transfer that was cut off is never
// silent: the failure says how much was written.
//
// Threading: the program has one thread.
#pragma once

#include <expected>

#include "report.hh"
#include "secure.hh"

namespace psp::cat {

// stream moves the data and keeps count in `summary`. It ends when both directions have ended and
// the peer's TCP has acknowledged everything. SIGINT and SIGTERM end it with a failure that says
// how much was written.
std::expected<void, Failure> stream(Channel& channel, const Options& options, Summary& summary);

}  // namespace psp::cat
