// SPDX-License-Identifier: Apache-2.0
//
// A secured socket, as the kernel lists it, in the words of the `softpsp` family: what an operator
// sees of a connection. Its addresses and states are the kernel's, its keys' numbers those of the
// association in the socket's storage.
//
// Threading: any.
#pragma once

#include "kernel/sock_diag.hh"
#include "netlink/messages/softpsp.hh"

namespace psp::host {

// assoc_info fills in all that the socket itself shows: not the netdev's name nor staleness.
AssocInfo assoc_info(const kernel::SecuredSocket& socket);

}  // namespace psp::host
