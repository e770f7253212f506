// SPDX-License-Identifier: Apache-2.0
//
// The settings that are built into what is made at the start: threads, maps, sockets, keys that
// were promised to stay. The others are looked at anew by Host::apply.
//
// A setting that is in neither place would be changed in the file and nowhere else, without a word:
// whoever adds one puts it here or there. The names are those of pspd's options, for the log.
#include "settings.hh"

namespace psp::host {

std::vector<std::string> fixed_changes(const Settings& now, const Settings& next) {
  std::vector<std::string> changed;
  const auto look = [&](const char* name, auto Settings::*setting) {
    if (now.*setting != next.*setting) changed.emplace_back(name);
  };
  look("socket", &Settings::socket);
  look("crypto", &Settings::crypto);
  look("workers", &Settings::workers);
  look("cpus", &Settings::cpus);
  look("rx-cache", &Settings::rx_cache);
  look("max-connections", &Settings::max_connections);
  look("busy-poll", &Settings::busy_poll_us);
  look("udp-checksum", &Settings::udp_checksum);
  look("compat", &Settings::compat);
  look("allow-key-export", &Settings::allow_key_export);
  look("allow-peers", &Settings::allow_peers);
  look("require", &Settings::require);
  return changed;
}

}  // namespace psp::host
