// SPDX-License-Identifier: Apache-2.0
//
// What a killed pspd left on the host: finding it, ending what it blocks, taking it away.
//
// Threading: the control thread.
#pragma once

#include <expected>
#include <span>
#include <string>

#include <psp/device/core.hh>

#include "netdev.hh"
#include "options.hh"

namespace psp {

// take_over ends the connections that an earlier, killed pspd secured, in all namespaces where it
// had: their keys died with it. Its programs still block them, so nothing leaves in clear
// meanwhile. They stay on `netdev`, one of the current namespace that is locked, and on those in
// `keep`, to be replaced without a gap; from its other netdevs they go. Errors: a sentence.
std::expected<void, std::string> take_over(const datapath::Netdev& netdev,
                                           std::span<const device::NetdevKey> keep);

// clean_up removes what a killed pspd left on the devices of `options`. Returns the exit code.
int clean_up(const Options& options);

}  // namespace psp
