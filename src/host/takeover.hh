// SPDX-License-Identifier: Apache-2.0
//
// Takeover: what a pspd that did not stop cleanly has left, in the hands of the next one. Its
// connections are ended while its programs still block them; when ours are in place its own go. How
// it is found and taken away, piece by piece, is kernel/leftover.hh.
//
// Threading: the control thread.
#pragma once

#include <expected>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "base/log.hh"
#include "base/unique_fd.hh"
#include "device/core.hh"
#include "kernel/leftover.hh"
#include "kernel/netdev.hh"

namespace psp::host {

// Taken is what an earlier pspd left, after its connections were ended.
struct Taken {
  kernel::Leftover leftover;
  std::unordered_set<std::uint64_t> aborted;  // cookies of the sockets that were ended
  std::size_t unseen = 0;                     // others, in no listing, that can connect again
};

// take_over ends the connections that dead pspds secured, in all namespaces where they had: their
// keys died with them. It finds those of pspds that were at work in this namespace or on one of
// `netdevs`, which are of it and locked. Their programs stay and block all that is left, so nothing
// leaves in clear until `let_go`. Errors: a sentence.
[[nodiscard]] std::expected<std::vector<Taken>, std::string> take_over(
    std::span<const kernel::Netdev> netdevs, const Log& log);

// Takeover is what was taken over by a pspd that runs already, and the lock that keeps others from
// it until it is let go.
struct Takeover {
  UniqueFd alone;
  std::vector<Taken> taken;
};

// take_over_later is take_over() for netdevs that come later. Where nothing was left, another pspd
// that takes something over is in nobody's way; else it is not waited for. Errors: a sentence.
[[nodiscard]] std::expected<Takeover, std::string> take_over_later(
    std::span<const kernel::Netdev> netdevs, const Log& log);

// remove_from_netdevs takes programs off those netdevs where one pspd has them but for `replaced`.
// Errors: a sentence; what can be is done then.
[[nodiscard]] std::expected<void, std::string> remove_from_netdevs(
    const kernel::Leftover& leftover, std::span<const device::NetdevKey> replaced);

// let_go takes an earlier pspd's programs away, once ours are in place. On netdevs in `replaced`
// ours have replaced them. While sockets are unseen, and ours have not inherited them, its socket
// programs stay. Errors: a sentence.
[[nodiscard]] std::expected<void, std::string> let_go(const Taken& taken,
                                                      std::span<const device::NetdevKey> replaced,
                                                      bool inherited, const Log& log);

// clean_up removes what killed pspds left on those netdevs and on the host. Returns the exit code.
int clean_up(std::span<const std::string> netdevs, const Log& log);

}  // namespace psp::host
