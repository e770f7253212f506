// SPDX-License-Identifier: Apache-2.0
//
// A secured socket, as the kernel lists it, in the words of the `softpsp` family.
#pragma once

#include <psp/netlink/client.hh>

#include "sock_diag.hh"

namespace psp {

// assoc_info fills in all that the socket itself shows: not the netdev's name nor staleness.
AssocInfo assoc_info(const datapath::SecuredSocket& socket);

}  // namespace psp
