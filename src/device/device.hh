// SPDX-License-Identifier: Apache-2.0
//
// Device: one registered PSP device as the core knows it (the kernel's psp_dev), and who sees it. A
// device belongs to its main netdev; others are associated with it, also in other namespaces.
// Whoever has a netdev of it sees it, only the main one's namespace changes it. Core alone writes
// these; all others read them. The keys are the driver's.
//
// Threading: the control thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "device/driver.hh"
#include "device/sa/association.hh"
#include "wire/types.hh"

namespace psp::device {

// Caller is the network namespace of whoever asks; none is pspd itself, which may do all that a
// caller in the device's main namespace may.
using Caller = std::optional<std::uint64_t>;

// kAssociatedMax is how many netdevs may be associated with one device.
inline constexpr std::size_t kAssociatedMax = 128;

// Device is one registered PSP device.
struct Device {
  std::uint16_t id = 0;
  NetdevKey netdev{};                   // the main one, whose driver this is
  std::vector<NetdevKey> associated{};  // by dev-assoc, in the order of their coming
  std::string ifname;                   // of the main netdev when it was registered
  VersionSet versions_cap;
  DeviceConfig config{};
  std::uint8_t generation = 0;
  std::uint64_t key_rotations = 0;
  std::uint64_t stale_events = 0;
  Driver* driver = nullptr;  // outlives the device's registration

  // present_in tells whether the device has an associated netdev in that namespace.
  bool present_in(std::uint64_t netns) const {
    return std::ranges::any_of(associated, [netns](NetdevKey key) { return key.netns == netns; });
  }
  // visible_in tells whether callers in that namespace see the device: its main netdev's, and
  // those where it is present by association.
  bool visible_in(std::uint64_t netns) const { return netdev.netns == netns || present_in(netns); }
};

}  // namespace psp::device
