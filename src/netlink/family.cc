// SPDX-License-Identifier: Apache-2.0
//
// The tables of the three families.
#include "family.hh"

#include <psp/netlink/uapi.h>

namespace psp::netlink {
namespace {

using Kind = Policy::Kind;
using Limit = Policy::Limit;

constexpr Policy kAny32 = {.kind = Kind::kU32};
constexpr Policy kId = {.kind = Kind::kU32, .limit = Limit::kRange, .min = 1};
constexpr Policy kUnset = {};

constexpr Policy kDevIdRows[] = {kUnset, kId};
constexpr PolicySet kDevId = {kDevIdRows};

constexpr Policy kDevSetRows[] = {
    kUnset, kId, kUnset, kUnset, {.kind = Kind::kU32, .limit = Limit::kMask, .max = 0xf}};
constexpr PolicySet kDevSet = {kDevSetRows};

constexpr Policy kDevAssocRows[] = {
    kUnset, kId, kAny32, kUnset, kUnset, kUnset, {.kind = Kind::kS32}};
constexpr PolicySet kDevAssoc = {kDevAssocRows};

constexpr Policy kKeysRows[] = {kUnset, {.kind = Kind::kBinary}, kAny32};
constexpr PolicySet kKeys = {kKeysRows};

constexpr Policy kVersion = {.kind = Kind::kU32, .limit = Limit::kRange, .max = 3};
constexpr Policy kRxAssocRows[] = {kUnset, kId, kVersion, kUnset, kUnset, kAny32};
constexpr PolicySet kRxAssoc = {kRxAssocRows};
constexpr Policy kTxAssocRows[] = {
    kUnset, kId, kVersion, kUnset, {.kind = Kind::kNested, .nested = &kKeys}, kAny32};
constexpr PolicySet kTxAssoc = {kTxAssocRows};

constexpr Policy kNothingRows[] = {kUnset};
constexpr PolicySet kNothing = {kNothingRows};
constexpr Policy kSubscribeRows[] = {kUnset,
                                     {.kind = Kind::kU32, .limit = Limit::kMask, .max = 0x3}};
constexpr PolicySet kSubscribe = {kSubscribeRows};

constexpr Policy kGetFamilyRows[] = {
    kUnset, {.kind = Kind::kU16}, {.kind = Kind::kNulString, .max = GENL_NAMSIZ - 1}};
constexpr PolicySet kGetFamily = {kGetFamilyRows};

constexpr Operation kNlctrlOperations[] = {
    {.cmd = CTRL_CMD_GETFAMILY,
     .has_do = true,
     .has_dump = true,
     .do_policy = &kGetFamily,
     .dump_policy = &kGetFamily},
};
constexpr Operation kPspOperations[] = {
    {.cmd = PSPNL_CMD_DEV_GET, .has_do = true, .has_dump = true, .do_policy = &kDevId},
    {.cmd = PSPNL_CMD_DEV_SET,
     .net_admin = true,
     .open_in_618 = true,
     .has_do = true,
     .do_policy = &kDevSet},
    {.cmd = PSPNL_CMD_KEY_ROTATE,
     .net_admin = true,
     .open_in_618 = true,
     .has_do = true,
     .do_policy = &kDevId},
    {.cmd = PSPNL_CMD_RX_ASSOC, .has_do = true, .do_policy = &kRxAssoc},
    {.cmd = PSPNL_CMD_TX_ASSOC, .has_do = true, .do_policy = &kTxAssoc},
    {.cmd = PSPNL_CMD_GET_STATS, .has_do = true, .has_dump = true, .do_policy = &kDevId},
    {.cmd = PSPNL_CMD_DEV_ASSOC, .net_admin = true, .has_do = true, .do_policy = &kDevAssoc},
    {.cmd = PSPNL_CMD_DEV_DISASSOC, .net_admin = true, .has_do = true, .do_policy = &kDevAssoc},
};
constexpr Operation kSoftpspOperations[] = {
    {.cmd = SOFTPSP_CMD_ASSOC_GET, .has_dump = true},
    {.cmd = SOFTPSP_CMD_INFO_GET, .has_do = true, .has_dump = true, .do_policy = &kNothing},
    {.cmd = SOFTPSP_CMD_SUBSCRIBE, .has_do = true, .do_policy = &kSubscribe},
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

}  // namespace psp::netlink
