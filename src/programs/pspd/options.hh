// SPDX-License-Identifier: Apache-2.0
//
// pspd's command line.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <vector>

#include <psp/device/core.hh>
#include <psp/wire/types.hh>

#include "peers.hh"

namespace psp {

struct Options {
  std::string config;  // the file that some of these are from, or empty
  std::vector<std::string> devices;
  std::string socket;
  std::string crypto = "auto";
  VersionSet enable;
  unsigned workers = 1;
  std::vector<unsigned> cpus;               // of each device's workers, in turn; empty: any
  std::chrono::seconds rotate_interval{0};  // 0: never by itself
  std::size_t rx_cache = 256;
  std::uint32_t max_connections = 524'288;  // secured, or in the two minutes after
  std::uint32_t busy_poll_us = 0;
  bool udp_checksum = true;
  std::string log_level = "info";
  bool cleanup = false;
  bool allow_key_export = false;
  bool require = false;                        // netdevs that are not there are an error
  std::vector<datapath::Network> allow_peers;  // empty: all
  device::Compat compat = device::Compat::kLinux72;
};

// parse_options reads argv. Without a value the program ends with that exit code: help and version
// are printed (0), or a mistake is explained (2).
std::expected<Options, int> parse_options(int argc, const char* const* argv);

// fixed_changes names the options that differ and that a running pspd cannot change.
std::vector<std::string> fixed_changes(const Options& now, const Options& next);

// parse_duration reads "90s", "15m", "24h", "1d", "off".
std::optional<std::chrono::seconds> parse_duration(const std::string& text);

}  // namespace psp
