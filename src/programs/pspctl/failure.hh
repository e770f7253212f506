// SPDX-License-Identifier: Apache-2.0
//
// What ends a command early: an exit status and a sentence. No function of pspctl throws one or
// exits: what can fail returns an Outcome, and run() prints the sentence.
//
// `what` begins each sentence with the command as it was given ("dev set eth0"), so that a line in
// a log tells what was tried.
#pragma once

#include <expected>
#include <string>
#include <string_view>

#include "netlink/client.hh"

namespace psp::ctl {

// ExitStatus is what scripts branch on; documented in pspctl(8), never renumbered.
enum class ExitStatus : int {
  kOk = 0,
  kFailed = 1,
  kUsage = 2,
  kUnreachable = 3,  // no kernel family and no pspd
  kNotSupported = 4,
  kPermission = 5,
};

// Failure is how a command ends that did not succeed. An empty message prints nothing.
struct Failure {
  ExitStatus status = ExitStatus::kFailed;
  std::string message;
};

template <typename T>
using Outcome = std::expected<T, Failure>;

// usage_error is a failure of the command line.
std::unexpected<Failure> usage_error(std::string message);
// refused turns a client's error into "<what>: <extack text> (bad attribute .dev-id)".
std::unexpected<Failure> refused(std::string_view what, const ClientError& error);
// unreachable is the same for an error of connecting.
std::unexpected<Failure> unreachable(const ClientError& error);

}  // namespace psp::ctl
