// SPDX-License-Identifier: Apache-2.0
//
// Which settings a running host cannot change is told by name, and each of the others is taken. All
// are written down here once more: a setting that somebody adds does not compile until it has its
// place in one of the two lists.
#include "settings.hh"

#include <functional>
#include <gtest/gtest.h>
#include <utility>

namespace psp::host {
namespace {

using Change = std::function<void(Settings&)>;

const std::vector<std::pair<std::string, Change>>& fixed() {
  static const std::vector<std::pair<std::string, Change>> all = {
      {"socket", [](Settings& s) { s.socket = "@other"; }},
      {"crypto", [](Settings& s) { s.crypto = "openssl"; }},
      {"workers", [](Settings& s) { s.workers = 3; }},
      {"cpus", [](Settings& s) { s.cpus = {1}; }},
      {"rx-cache", [](Settings& s) { s.rx_cache = 1; }},
      {"max-connections", [](Settings& s) { s.max_connections = 1; }},
      {"busy-poll", [](Settings& s) { s.busy_poll_us = 20; }},
      {"udp-checksum", [](Settings& s) { s.udp_checksum = false; }},
      {"compat", [](Settings& s) { s.compat = device::Compat::kLinux618; }},
      {"allow-key-export", [](Settings& s) { s.allow_key_export = true; }},
      {"allow-peers", [](Settings& s) { s.allow_peers.emplace_back(); }},
      {"require", [](Settings& s) { s.require = true; }},
  };
  return all;
}

TEST(Settings, EachThatIsFixedIsNamed) {
  for (const auto& [name, change] : fixed()) {
    Settings next;
    change(next);
    EXPECT_EQ(fixed_changes({}, next), std::vector<std::string>{name});
  }
}

TEST(Settings, AllThatAreFixedAreNamedInTheOrderOfTheirOptions) {
  Settings next;
  std::vector<std::string> names;
  for (const auto& [name, change] : fixed()) {
    change(next);
    names.push_back(name);
  }
  EXPECT_EQ(fixed_changes({}, next), names);
}

TEST(Settings, WhatCanChangeIsNotNamed) {
  Settings next;
  // All of them by name: these three, and those that are fixed.
  [[maybe_unused]] const auto& [devices, socket, crypto, enable, workers, cpus, rotate_interval,
                                rx_cache, max_connections, busy_poll_us, udp_checksum,
                                allow_key_export, require, allow_peers, compat] = next;
  EXPECT_EQ(fixed().size() + 3, 15u);
  next.devices = {"eth0"};
  next.enable = VersionSet::all();
  next.rotate_interval = std::chrono::hours(1);
  EXPECT_TRUE(fixed_changes({}, next).empty());
}

}  // namespace
}  // namespace psp::host
