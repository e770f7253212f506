// SPDX-License-Identifier: Apache-2.0
//
// All families that a Server has, by their numbers and names, and who may call their operations.
// The policies of `psp` are those of the kernel's psp-nl-gen.c. There is nothing here that changes:
// tables that are made once, for every Server of the process. Used by server.cc for each request,
// and by the operations of nlctrl to describe all of them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "netlink/family.hh"
#include "netlink/privilege.hh"

namespace psp::netlink {

// families are all that a Server knows.
std::span<const Family> families();

// find_family: null if there is none.
const Family* find_family(std::uint16_t id);
const Family* find_family(std::string_view name);

// needs_net_admin is GENL_ADMIN_PERM of the operation. The first release did not ask it of dev-set
// and key-rotate.
bool needs_net_admin(const Family& family, const Operation& operation, bool first_release);

}  // namespace psp::netlink
