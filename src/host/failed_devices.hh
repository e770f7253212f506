// SPDX-License-Identifier: Apache-2.0
//
// FailedDevices: the devices that can seal and open nothing any more, until they are ended. One
// that has failed once stays so, whatever it looks like later: a stranger who was at its TAP has
// been given packets, and nothing of such a device is put back.
//
// Threading: the control thread. The time is given.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/backoff.hh"

namespace psp::host {

class FailedDevices {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // add: this device has failed, and why; what was said first stays.
  void add(std::uint16_t id, std::string why) { all_.try_emplace(id, Failed{std::move(why)}); }
  bool contains(std::uint16_t id) const { return all_.contains(id); }
  // due are those to be ended now, each with why it has failed.
  std::vector<std::pair<std::uint16_t, std::string>> due(Time now) const {
    std::vector<std::pair<std::uint16_t, std::string>> due;
    for (const auto& [id, failed] : all_)
      if (failed.again.due(now)) due.emplace_back(id, failed.why);
    return due;
  }
  // put_off: it cannot be ended yet, and is due again after a pause. Whether the obstacle is new.
  bool put_off(std::uint16_t id, const std::string& obstacle, Time now) {
    const auto found = all_.find(id);
    if (found == all_.end()) return false;
    found->second.again.tried(now);
    return std::exchange(found->second.obstacle, obstacle) != obstacle;
  }
  void erase(std::uint16_t id) { all_.erase(id); }

 private:
  struct Failed {
    std::string why;
    std::string obstacle{};
    Backoff again{};
  };
  std::map<std::uint16_t, Failed> all_;
};

}  // namespace psp::host
