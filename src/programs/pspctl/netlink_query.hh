// SPDX-License-Identifier: Apache-2.0
//
// The few questions that doctor puts to the kernel by rtnetlink.
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <sys/socket.h>
#include <vector>

namespace psp::ctl {

// route_ifindex is the netdev by which packets to `address` leave. Errors: errno.
std::expected<std::uint32_t, int> route_ifindex(const sockaddr_storage& address);

// tc_programs lists the names of the BPF programs that tc runs on a netdev, at clsact's ingress and
// egress; empty also if that cannot be told.
std::vector<std::string> tc_programs(std::uint32_t ifindex);

}  // namespace psp::ctl
