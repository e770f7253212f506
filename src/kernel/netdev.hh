// SPDX-License-Identifier: Apache-2.0
//
// Network devices: facts about one, the one host setting that pspd changes on it, the state of a
// TAP's link, and what hangs at a device's qdiscs.
//
// Threading: any; names and numbers are those of the calling thread's network namespace.
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>

#include "device/core.hh"

namespace psp::kernel {

// Netdev is an Ethernet device of this network namespace, as it was when it was looked up.
struct Netdev {
  std::uint64_t netns = 0;  // cookie of that namespace
  std::uint32_t ifindex = 0;
  std::string name;
  std::array<std::uint8_t, 6> mac{};
  std::uint32_t mtu = 0;
  std::uint32_t port_of = 0;              // see link_facts.hh; 0: of none
  std::uint32_t shares_address_with = 0;  // likewise
  bool lower_elsewhere = false;           // that one is in another network namespace
  std::string unfit = {};                 // why it can have no PSP device; empty: it can

  device::NetdevKey key() const { return {netns, ifindex}; }
};

// find_netdev looks a device up that can have a PSP device, by name or number. Errors: a sentence.
// look_up gives nothing if there is none of that number, which is not an error, nor is one that is
// unfit by now.
std::expected<Netdev, std::string> find_netdev(const std::string& name);
std::expected<Netdev, std::string> find_netdev(std::uint32_t ifindex);
std::expected<std::optional<Netdev>, std::string> look_up(std::uint32_t ifindex);

// share_address: what comes for one of them is taken at the other. (Of netdevs that lie on one of
// another namespace, that one's number is known, and not which namespace it is.)
bool share_address(const Netdev& one, const Netdev& other);

// LinkSettings is what pspd sets of a netdev of its own.
struct LinkSettings {
  std::string name;
  std::uint32_t mtu = 0, queue_length = 0;
  bool up = false;  // and without ARP
};

// read_link is how a netdev of this network namespace is now; nothing: there is none of that
// number. set_link makes it so. Errors: a sentence.
[[nodiscard]] std::expected<std::optional<LinkSettings>, std::string> read_link(
    std::uint32_t ifindex);
[[nodiscard]] std::expected<void, std::string> set_link(std::uint32_t ifindex,
                                                        const LinkSettings& link);

// move_link moves a netdev of this network namespace to another one, where it has that number and
// name. Errors: a sentence.
[[nodiscard]] std::expected<void, std::string> move_link(const std::string& from, int netns,
                                                         std::uint32_t ifindex,
                                                         const std::string& name);

// tap_queues is how many queues a TAP of this network namespace has, of whatever process, attached
// or not. Nothing if the kernel does not say, or it is none.
std::optional<unsigned> tap_queues(std::uint32_t ifindex);

// kUdpGroForwarding: joined PSP packets reach the TAP joined only with this: a NIC's driver
// otherwise cuts UDP apart that no local socket has asked for.
inline constexpr const char* kUdpGroForwarding = "rx-udp-gro-forwarding";

// has_feature tells whether an ethtool feature is on, for example kUdpGroForwarding; set_feature
// switches it. Errors: a sentence, also if the device does not have the feature or will not change
// it.
[[nodiscard]] std::expected<bool, std::string> has_feature(const std::string& netdev,
                                                           const std::string& feature);
[[nodiscard]] std::expected<void, std::string> set_feature(const std::string& netdev,
                                                           const std::string& feature, bool on);

// is_first_filter tells whether the filter with that priority and handle is the first to see a
// packet at one side of the clsact: one in front could end the walk.
// Errors, here and below: a sentence.
[[nodiscard]] std::expected<bool, std::string> is_first_filter(std::uint32_t ifindex, bool ingress,
                                                               std::uint32_t priority,
                                                               std::uint32_t handle);

// has_filters tells whether any tc filter of anybody hangs at the device's clsact.
[[nodiscard]] std::expected<bool, std::string> has_filters(std::uint32_t ifindex);

// has_clsact tells whether the device has a clsact qdisc, has_ingress whether an ingress qdisc is
// in its place.
[[nodiscard]] std::expected<bool, std::string> has_clsact(std::uint32_t ifindex);
[[nodiscard]] std::expected<bool, std::string> has_ingress(std::uint32_t ifindex);

}  // namespace psp::kernel
