// SPDX-License-Identifier: Apache-2.0
//
// The tables of the three families.
#include "family.hh"

#include <algorithm>
#include <string_view>

#include <psp/netlink/uapi.h>
#include <psp/wire/types.hh>

namespace psp::netlink {
namespace {

using Kind = Policy::Kind;
using Limit = Policy::Limit;

constexpr Policy kUnset = {};
constexpr Policy kNothingRows[] = {kUnset};
constexpr PolicySet kNothing = {kNothingRows};

// The psp family: kPspOperations and what they need, made of spec/psp.yaml; and a check of uapi.h.
#include "psp_family.inc"

constexpr Policy kSubscribeRows[] = {kUnset,
                                     {.kind = Kind::kU32, .limit = Limit::kMask, .max = 0x3}};
constexpr PolicySet kSubscribe = {kSubscribeRows};

constexpr Policy kKeyGetRows[] = {kUnset, {.kind = Kind::kBinary}};
constexpr PolicySet kKeyGet = {kKeyGetRows};

constexpr Policy kGetFamilyRows[] = {
    kUnset, {.kind = Kind::kU16}, {.kind = Kind::kNulString, .max = GENL_NAMSIZ - 1}};
constexpr PolicySet kGetFamily = {kGetFamilyRows};

constexpr Policy kGetPolicyRows[] = {kUnset,
                                     {.kind = Kind::kU16},
                                     {.kind = Kind::kNulString, .max = GENL_NAMSIZ - 1},
                                     kUnset,
                                     kUnset,
                                     kUnset,
                                     kUnset,
                                     kUnset,
                                     kUnset,
                                     kUnset,
                                     {.kind = Kind::kU32}};
constexpr PolicySet kGetPolicy = {kGetPolicyRows};
static_assert(CTRL_ATTR_OP == 10);

constexpr Operation kNlctrlOperations[] = {
    {.cmd = CTRL_CMD_GETFAMILY,
     .has_do = true,
     .has_dump = true,
     .do_policy = &kGetFamily,
     .dump_policy = &kGetFamily},
    {.cmd = CTRL_CMD_GETPOLICY, .has_dump = true, .dump_policy = &kGetPolicy},
};
constexpr Operation kSoftpspOperations[] = {
    {.cmd = SOFTPSP_CMD_ASSOC_GET, .has_dump = true},
    {.cmd = SOFTPSP_CMD_INFO_GET, .has_do = true, .has_dump = true, .do_policy = &kNothing},
    {.cmd = SOFTPSP_CMD_SUBSCRIBE, .has_do = true, .do_policy = &kSubscribe},
    {.cmd = SOFTPSP_CMD_KEY_GET, .net_admin = true, .has_do = true, .do_policy = &kKeyGet},
    {.cmd = SOFTPSP_CMD_PACKET_GET, .net_admin = true, .has_dump = true},
};
constexpr Group kPspGroups[] = {{kMgmtGroupId, PSPNL_MCGRP_MGMT}, {kUseGroupId, PSPNL_MCGRP_USE}};

constexpr Family kFamilies[] = {
    {.which = FamilyName::kNlctrl,
     .name = "nlctrl",
     .id = GENL_ID_CTRL,
     .version = 2,
     .strictness = Strictness::kLiberal,
     .operations = kNlctrlOperations},
    {.which = FamilyName::kPsp,
     .name = PSPNL_FAMILY_NAME,
     .id = kPspFamilyId,
     .version = PSPNL_FAMILY_VERSION,
     .operations = kPspOperations,
     .groups = kPspGroups},
    {.which = FamilyName::kSoftpsp,
     .name = SOFTPSP_FAMILY_NAME,
     .id = kSoftpspFamilyId,
     .version = SOFTPSP_FAMILY_VERSION,
     .operations = kSoftpspOperations},
};

}  // namespace

std::span<const Family> families() { return kFamilies; }

bool needs_net_admin(const Family& family, const Operation& operation, bool first_release) {
  const bool was_open = family.which == FamilyName::kPsp && (operation.cmd == PSPNL_CMD_DEV_SET ||
                                                             operation.cmd == PSPNL_CMD_KEY_ROTATE);
  return operation.net_admin && !(first_release && was_open);
}

const Family* find_family(std::uint16_t id) {
  const auto it = std::ranges::find(kFamilies, id, &Family::id);
  return it != std::end(kFamilies) ? it : nullptr;
}

const Family* find_family(std::string_view name) {
  const auto it =
      std::ranges::find_if(kFamilies, [name](auto& family) { return family.name == name; });
  return it != std::end(kFamilies) ? it : nullptr;
}

}  // namespace psp::netlink
