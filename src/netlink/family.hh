// SPDX-License-Identifier: Apache-2.0
//
// A family as data: which commands there are, who may call them and what their attributes must be
// like. Each family stands with its messages (messages/*.cc), and families.hh has all of them. The
// server checks a request by this before an operation sees it, and nlctrl tells clients the same
// tables, so that what is said and what is done are one. Those of psp and softpsp are made from
// spec/ when softpsp is built.
#pragma once

#include <cstdint>
#include <span>

#include "netlink/codec.hh"
#include <psp/netlink/uapi.h>

namespace psp::netlink {

// Family and group numbers are ours to choose, as the kernel's are its own: clients resolve names
// by nlctrl. These lie outside of what a kernel hands out, so that one netlink socket can carry
// both.
inline constexpr std::uint16_t kPspFamilyId = SOFTPSP_ID_PSP;
inline constexpr std::uint16_t kSoftpspFamilyId = SOFTPSP_ID_SOFTPSP;

enum class FamilyName : std::uint8_t { kNlctrl, kPsp, kSoftpsp };

struct Operation {
  std::uint8_t cmd = 0;
  bool net_admin = false;  // GENL_ADMIN_PERM
  bool has_do = false;
  bool has_dump = false;
  const PolicySet* do_policy = nullptr;    // required with has_do
  const PolicySet* dump_policy = nullptr;  // null: attributes are not looked at, as in the kernel
};

struct Group {
  std::uint32_t id = 0;
  const char* name = "";
};

struct Family {
  FamilyName which = FamilyName::kPsp;
  const char* name = "";
  std::uint16_t id = 0;
  std::uint8_t version = 0;
  Strictness strictness = Strictness::kStrict;
  std::span<const Operation> operations{};
  std::span<const Group> groups{};
};

// kNothing is the policy of an operation that takes no attribute.
inline constexpr Policy kNothingPolicies[] = {{}};
inline constexpr PolicySet kNothing = {kNothingPolicies};

}  // namespace psp::netlink
