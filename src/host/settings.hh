// SPDX-License-Identifier: Apache-2.0
//
// Settings: what a Host is told by its operator, whichever way (pspd's options are Settings). Some
// can change while it runs (Host::apply); the others are for its life.
//
// Threading: none, these are values.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "datapath/peers.hh"
#include "device/core.hh"
#include "wire/types.hh"

namespace psp::host {

struct Settings {
  std::vector<std::string> devices;  // netdevs that get a PSP device
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
  bool allow_key_export = false;
  bool require = false;                        // netdevs that are not there are an error
  std::vector<datapath::Network> allow_peers;  // empty: all
  device::Compat compat = device::Compat::kLinux72;
};

// fixed_changes names, by their options, the settings that differ and that a running host cannot
// change.
std::vector<std::string> fixed_changes(const Settings& now, const Settings& next);

}  // namespace psp::host
