// SPDX-License-Identifier: Apache-2.0
//
// The families that a Server has, in the order in which nlctrl lists them, and the one table of who
// may do what: GENL_ADMIN_PERM of each operation. The first release of Linux with PSP did not ask
// for it in two operations, and pspd by its rules does not either. A transport that cannot look at
// capabilities cheaply asks before whether any release could want one (privilege.hh).
#include "netlink/families.hh"

#include <algorithm>
#include <array>

#include "netlink/messages/nlctrl.hh"
#include "netlink/messages/psp.hh"
#include "netlink/messages/softpsp.hh"

namespace psp::netlink {

std::span<const Family> families() {
  static const std::array kAll{nlctrl_family(), psp_family(), softpsp_family()};
  return kAll;
}

const Family* find_family(std::uint16_t id) {
  const auto it = std::ranges::find(families(), id, &Family::id);
  return it != families().end() ? &*it : nullptr;
}

const Family* find_family(std::string_view name) {
  const auto it =
      std::ranges::find_if(families(), [name](auto& family) { return family.name == name; });
  return it != families().end() ? &*it : nullptr;
}

bool needs_net_admin(const Family& family, const Operation& operation, bool first_release) {
  const bool was_open = family.which == FamilyName::kPsp && (operation.cmd == PSPNL_CMD_DEV_SET ||
                                                             operation.cmd == PSPNL_CMD_KEY_ROTATE);
  return operation.net_admin && !(first_release && was_open);
}

bool may_need_net_admin(std::uint16_t family_id, std::uint8_t cmd) {
  const Family* family = find_family(family_id);
  return family != nullptr &&
         std::ranges::any_of(family->operations, [cmd](const Operation& operation) {
           return operation.cmd == cmd && operation.net_admin;
         });
}

}  // namespace psp::netlink
