// SPDX-License-Identifier: Apache-2.0
//
// The command line of psp-cat, as the rest of the program reads it: whatever is here fits together,
// since parse_options has refused what does not.
//
// Versions that authenticate without encrypting are used only by who names them. TlsOptions says
// where keys and certificates are; they are read later (keyx::make_context), so a file that is not
// there is no error of parse_options.
#pragma once

#include <chrono>
#include <expected>
#include <optional>
#include <string>

#include "keyx/tls.hh"
#include "keyx/upgrade.hh"
#include "wire/types.hh"

namespace psp::cat {

struct Options {
  bool listen = false;
  std::string host;  // listen: empty for every address
  std::string port;
  int family = 0;               // AF_UNSPEC, AF_INET or AF_INET6
  VersionSet versions{0b0011};  // those that encrypt; the others only on request
  bool allow_tls = false;
  keyx::Protocol protocol = keyx::Protocol::kSoftpsp;
  std::optional<std::string> socket;  // of pspd; none: see Client::connect
  std::chrono::milliseconds timeout{10'000};
  bool quiet = false;
  bool json = false;
  bool progress = false;
  bool recv_only = false;
  bool send_only = false;
  keyx::TlsOptions tls;
};

// parse_options reads argv. What it gives instead of options is an exit status: help was asked for
// and printed (0), or the arguments are wrong and it has said so (2).
std::expected<Options, int> parse_options(int argc, char** argv);

}  // namespace psp::cat
