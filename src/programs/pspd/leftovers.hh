// SPDX-License-Identifier: Apache-2.0
//
// What a pspd that did not stop cleanly left on the host: finding it, ending what it blocks, taking
// it away.
//
// Threading: the control thread.
#pragma once

#include <expected>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include <psp/base/unique_fd.hh>
#include <psp/device/core.hh>

#include "leftover.hh"
#include "netdev.hh"
#include "options.hh"

namespace psp {

// Taken is what an earlier pspd left, after its connections were ended.
struct Taken {
  datapath::Leftover leftover;
  std::unordered_set<std::uint64_t> aborted;  // cookies of the sockets that were ended
  std::size_t unseen = 0;                     // others, in no listing, that can connect again
};

// take_over ends the connections that dead pspds secured, in all namespaces where they had: their
// keys died with them. It finds those of pspds that were at work in this namespace or on one of
// `netdevs`, which are of it and locked. Their programs stay and block all that is left, so nothing
// leaves in clear until `let_go`. Errors: a sentence.
[[nodiscard]] std::expected<std::vector<Taken>, std::string> take_over(
    std::span<const datapath::Netdev> netdevs);

// Takeover is what was taken over by a pspd that runs already, and the lock that keeps others from
// it until it is let go.
struct Takeover {
  UniqueFd alone;
  std::vector<Taken> taken;
};

// take_over_later is take_over() for netdevs that come later. Where nothing was left, another pspd
// that takes something over is in nobody's way; else it is not waited for. Errors: a sentence.
[[nodiscard]] std::expected<Takeover, std::string> take_over_later(
    std::span<const datapath::Netdev> netdevs);

// let_go takes an earlier pspd's programs away, once ours are in place. On netdevs in `keep` ours
// have replaced them. While sockets are unseen, and ours have not inherited them, its socket
// programs stay. Errors: a sentence.
[[nodiscard]] std::expected<void, std::string> let_go(const Taken& taken,
                                                      std::span<const device::NetdevKey> keep,
                                                      bool inherited);

// clean_up removes what a killed pspd left on the devices of `options`. Returns the exit code.
int clean_up(const Options& options);

}  // namespace psp
