// SPDX-License-Identifier: Apache-2.0
//
// Network namespaces by the names that ip-netns(8) gives them, and the numbers (nsid) by which one
// namespace knows another.
//
// The family speaks of namespaces by number, as the caller's namespace has it: so a number is asked
// for before the request, and given if there is none. enter_netns changes the namespace of the
// thread for good: to be called before anything is connected, and from one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/unique_fd.hh"

#include "failure.hh"

namespace psp::ctl {

// open_netns opens the namespace of that name in /run/netns, or at that path if it has a slash.
// Errors: kFailed, kPermission.
Outcome<UniqueFd> open_netns(const std::string& name);
// open_netns_of opens the namespace of a process.
Outcome<UniqueFd> open_netns_of(std::uint32_t pid);
// enter_netns moves the calling thread, and so what it connects to, into that namespace.
Outcome<void> enter_netns(const std::string& name);

// nsid_of is the number by which our namespace knows the one behind `netns`; one is assigned if
// there is none yet (needs CAP_NET_ADMIN). No value: it is our own. `what` begins the error.
Outcome<std::optional<std::int32_t>> nsid_of(const UniqueFd& netns, const std::string& what);

}  // namespace psp::ctl
