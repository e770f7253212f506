// SPDX-License-Identifier: Apache-2.0
//
// What nlctrl tells: families, their operations, groups and policies, as the kernel's genetlink.c
// and policy.c write them.
#pragma once

#include <memory>

#include "dump.hh"
#include "family.hh"

namespace psp::netlink {

// put_family writes the attributes of CTRL_CMD_NEWFAMILY. `first_release`: see needs_net_admin.
void put_family(Writer& writer, const Family& family, bool first_release);

// family_rows lists all families.
std::unique_ptr<Rows> family_rows(bool first_release);

// policy_rows lists the policies of a family, or those of one operation (`only`), in the form of
// CTRL_CMD_GETPOLICY: which policies the operations have, then each attribute of each policy.
// Null: there is none to list.
std::unique_ptr<Rows> policy_rows(const Family& family, const Operation* only);

}  // namespace psp::netlink
