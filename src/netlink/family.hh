// SPDX-License-Identifier: Apache-2.0
//
// The families as data: which commands there are, who may call them and what their attributes must
// be like. The policies of `psp` are those of the kernel's psp-nl-gen.c.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "codec.hh"

namespace psp::netlink {

// Family and group numbers are ours to choose, as the kernel's are its own: clients resolve names
// by nlctrl. These lie outside of what a kernel hands out, so that one netlink socket can carry
// both.
inline constexpr std::uint16_t kPspFamilyId = 0x5053;
inline constexpr std::uint16_t kSoftpspFamilyId = 0x5054;
inline constexpr std::uint32_t kMgmtGroupId = 0x50530001;
inline constexpr std::uint32_t kUseGroupId = 0x50530002;

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

// needs_net_admin is GENL_ADMIN_PERM of the operation. The first release did not ask it of dev-set
// and key-rotate.
bool needs_net_admin(const Family& family, const Operation& operation, bool first_release);

// find_family: null if there is none.
const Family* find_family(std::uint16_t id);
const Family* find_family(std::string_view name);

// families are all that a Server knows.
std::span<const Family> families();

}  // namespace psp::netlink
