// SPDX-License-Identifier: Apache-2.0
//
// HostLock: which pspd lives, and which netdev is whose, told by the kernel. A lock is a BPF map
// with a name, of a type that only root of the host may make, and nothing but its holder's
// descriptor keeps it: all pspds of a host see the same maps, whatever their mount, network,
// process or cgroup namespaces; the kernel removes it with the process, however that ends; and who
// is not root can neither make one, nor hold one, nor be in the way of one.
//
// Threading: any.
#pragma once

#include <cstdint>
#include <expected>
#include <string>

#include "base/unique_fd.hh"
#include "device/core.hh"

namespace psp::kernel {

// root_cgroup is the root of the cgroup-v2 tree, by a mount of its own, since /sys may be hidden
// (ip netns exec does that). Errors: empty, with errno.
UniqueFd root_cgroup();

// lock_epoch says that the pspd of that epoch lives, for as long as the descriptor is kept. Errors:
// a sentence.
std::expected<UniqueFd, std::string> lock_epoch(std::uint64_t epoch);

// lives tells whether a pspd of that epoch does. Errors, where the kernel does not tell: a
// sentence.
[[nodiscard]] std::expected<bool, std::string> lives(std::uint64_t epoch);

// lock_takeover is for who looks for what dead pspds left, until all of it is taken over or gone:
// two at once would inherit the same. With `wait` it waits some seconds for another. Errors: a
// sentence.
std::expected<UniqueFd, std::string> lock_takeover(bool wait);

// lock_netdev makes this process the only pspd of a netdev for as long as it keeps the descriptor.
// `name` is for the error: a sentence.
std::expected<UniqueFd, std::string> lock_netdev(device::NetdevKey netdev, const std::string& name);

}  // namespace psp::kernel
