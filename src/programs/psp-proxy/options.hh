// SPDX-License-Identifier: Apache-2.0
//
// The command line of psp-proxy, as all of its parts read it: what does not fit together has been
// refused. It does not change while the program runs; what is read again are the files that it
// names (Credentials).
//
// Threading: values; all workers read the same ones.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <vector>

#include "keyx/tls.hh"
#include "wire/types.hh"

#include "half_open.hh"
#include "host_port.hh"

namespace psp::proxy {

inline constexpr int kExitFailure = 1, kExitUsage = 2;

struct Options {
  // serve: connections come by PSP and go on in clear. Else they come in clear and go on by PSP.
  bool serve = false;
  HostPort listen, to;
  bool allow_tls = false;       // policy "preferred"
  VersionSet versions{0b0011};  // those that encrypt; the others only on request
  keyx::TlsOptions tls;
  // Whom we accept: for a client the one name that the peer's certificate must be for (the host of
  // --to unless given), for a server the names of clients that may come (empty: all that --ca
  // vouches for).
  std::vector<std::string> peer_names;
  std::optional<std::string> socket;  // of pspd; none: see Client::connect
  std::chrono::milliseconds timeout{10'000};
  std::chrono::milliseconds retire_idle{300'000};  // 0: never
  std::chrono::milliseconds drain{30'000};
  std::chrono::milliseconds stats_interval{0};  // 0: none
  std::string stats_socket;
  unsigned max_connections = 1000;
  HalfOpenLimits half_open;  // of peers; programs of this host have none
  unsigned threads = 0;      // 0: as many as processors, up to 4
  bool quiet = false;
};

// parse_options reads argv. What it gives instead of options is an exit status: help was asked for
// and printed (0), or the arguments are wrong and it has said so (2).
std::expected<Options, int> parse_options(int argc, const char* const* argv);

}  // namespace psp::proxy
