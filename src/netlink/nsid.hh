// SPDX-License-Identifier: Apache-2.0
//
// The number by which this network namespace knows itself. The kernel gives one out when it has to
// name a netdev of a device's own namespace.
#pragma once

#include <cstdint>
#include <optional>

namespace psp::netlink {

// own_nsid is nullopt if there is none, or if it cannot be asked for.
std::optional<std::int32_t> own_nsid();

}  // namespace psp::netlink
