// SPDX-License-Identifier: Apache-2.0
//
// What only CAP_NET_ADMIN may do, for a transport that looks at a caller's capabilities when it has
// to and not before. It is the server that then allows or refuses. For programs under
// libpsp-genl.so it is asked for each envelope (control/envelope.cc), and most requests need no
// such look. A header of its own, so that who only asks this does not see the families.
#pragma once

#include <cstdint>

namespace psp::netlink {

// may_need_net_admin: in some release the operation of that family asks for CAP_NET_ADMIN.
bool may_need_net_admin(std::uint16_t family_id, std::uint8_t cmd);

}  // namespace psp::netlink
