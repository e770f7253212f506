// SPDX-License-Identifier: Apache-2.0
//
// Numbers of network namespaces (nsid): each namespace has its own for those that it has to name,
// itself among them. All is about the namespace of the calling thread. A number is how dev-assoc
// names a namespace, and how events of all namespaces tell whose they are
// (NETLINK_LISTEN_ALL_NSID). Used by pspd (kernel/netns.cc), by psp::Client and by pspctl.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>

namespace psp {

// nsid_of is the number of the namespace behind `fd`, -1 if it has none. Errors: errno.
std::expected<std::int32_t, int> nsid_of(int fd);
// assign_nsid gives it one that is free. Returns 0 or an errno, EEXIST if it has one.
int assign_nsid(int fd);
// own_nsid is the number by which this namespace knows itself; nullopt: it has none, or it cannot
// be asked for. The kernel gives one out when it has to name a netdev of a device's own namespace.
std::optional<std::int32_t> own_nsid();

}  // namespace psp
