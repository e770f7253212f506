// SPDX-License-Identifier: Apache-2.0
//
// WantedNetdevs: the netdevs that the operator has named, and which of them have their PSP device.
// One that is not there yet, or has gone, is looked for again; one that cannot have its device,
// since another pspd has it, is tried again with pauses that grow.
//
// Pure: netdevs and devices are behind functions. Threading: the control thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "kernel/upkeep.hh"

namespace psp::host {

class WantedNetdevs {
 public:
  using Names = std::set<std::string>;

  // add: a netdev that is wanted, with the device it has (0: none).
  void add(const std::string& name, std::uint16_t device = 0) {
    all_.push_back({.name = name, .device = device, .upkeep = {}});
  }
  bool contains(const std::string& name) const;
  // without_device are those that wait for theirs.
  std::vector<std::string> without_device() const;
  // device_gone: a device is there no more, its netdev is wanted all the same.
  void device_gone(std::uint16_t device);

  // rename follows netdevs that have another name now, if `names` has it too: they are still the
  // same. `name_of` is the name of a device's netdev, or empty.
  void rename(const Names& names, const std::function<std::string(std::uint16_t)>& name_of);
  // unwanted are the devices of netdevs that are not in `names`.
  std::vector<std::uint16_t> unwanted(const Names& names) const;
  // forget drops the netdevs that are not in `names` and have no device.
  void forget(const Names& names);

  // find gives each netdev that is there and has no device one. `give` returns the device. The
  // sentences say what went wrong, when that is new.
  std::vector<std::string> find(
      std::chrono::steady_clock::time_point now,
      const std::function<bool(const std::string&)>& is_there,
      const std::function<std::expected<std::uint16_t, std::string>(const std::string&)>& give);

 private:
  struct Wanted {
    std::string name;
    std::uint16_t device = 0;
    kernel::Upkeep upkeep{};
  };
  std::vector<Wanted> all_;
};

}  // namespace psp::host
