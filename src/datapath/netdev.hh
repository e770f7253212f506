// SPDX-License-Identifier: Apache-2.0
//
// Facts about a network device and the one host setting that pspd changes on it.
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <string>

namespace psp::datapath {

// Netdev is an Ethernet device of this network namespace, as it was when it was looked up.
struct Netdev {
  std::uint32_t ifindex = 0;
  std::string name;
  std::array<std::uint8_t, 6> mac{};
  std::uint32_t mtu = 0;
  bool up = false;
};

// find_netdev looks a device up by name. Errors: a sentence.
std::expected<Netdev, std::string> find_netdev(const std::string& name);
std::expected<Netdev, std::string> find_netdev(std::uint32_t ifindex);

// set_feature switches an ethtool feature, for example "rx-udp-gro-forwarding". Returns what it was
// before. Errors: a sentence, also if the device does not have the feature or will not change it.
std::expected<bool, std::string> set_feature(const std::string& netdev, const std::string& feature,
                                             bool on);

// is_first_filter tells whether the filter with that priority and handle is the first to see a
// packet on both sides of the clsact: one in front could end the walk.
bool is_first_filter(std::uint32_t ifindex, std::uint32_t priority, std::uint32_t handle);

// has_filters tells whether any tc filter of anybody hangs at the device's clsact.
bool has_filters(std::uint32_t ifindex);

}  // namespace psp::datapath
