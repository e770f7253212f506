// SPDX-License-Identifier: Apache-2.0
//
// The few requests that pspctl has for the kernel by rtnetlink: where packets to a peer leave, who
// is next there, which programs stand at a netdev, how netdevs of other namespaces are called.
//
// Mostly for doctor. None changes the host, but that ask_neighbour has the kernel look for a
// neighbour, as any packet to it would. Requests wait for the kernel and for nobody else.
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <sys/socket.h>
#include <vector>

namespace psp::ctl {

// Route is how packets to an address leave. Addresses have 4 or 16 octets.
struct Route {
  std::uint32_t ifindex = 0;
  bool local = false;                 // the address is this host's own
  std::vector<std::uint8_t> gateway;  // none: the peer is on the link
};
// find_route asks the kernel. Errors: errno.
std::expected<Route, int> find_route(const sockaddr_storage& address);

// find_neighbour is the link address of a neighbour; nothing: not known (yet). ask_neighbour has
// the kernel find it out, as a packet to it would, and returns 0 or an errno.
std::optional<std::array<std::uint8_t, 6>> find_neighbour(std::uint32_t ifindex,
                                                          const std::vector<std::uint8_t>& address);
int ask_neighbour(std::uint32_t ifindex, const std::vector<std::uint8_t>& address);

// tc_programs lists the names of the BPF programs that tc runs on a netdev, at clsact's ingress and
// egress; empty also if that cannot be told.
std::vector<std::string> tc_programs(std::uint32_t ifindex);

// link_index and link_name find a netdev by name or index, in the namespace known by that number.
// Errors: errno.
std::expected<std::uint32_t, int> link_index(const std::string& name,
                                             std::optional<std::int32_t> nsid);
std::expected<std::string, int> link_name(std::uint32_t ifindex, std::optional<std::int32_t> nsid);

}  // namespace psp::ctl
