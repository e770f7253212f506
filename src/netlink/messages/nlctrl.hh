// SPDX-License-Identifier: Apache-2.0
//
// The messages of `nlctrl`, by which clients resolve the names of families, its operations and
// policies, as the kernel's genetlink.c and policy.c have them. Compared with a running kernel 6.18
// (codec_test.cc).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "netlink/messages/message.hh"

namespace psp::netlink {

struct Family;
struct Policy;

// FamilyInfo is a family with its operations and groups: CTRL_CMD_NEWFAMILY.
struct FamilyInfo {
  struct Operation {
    std::uint32_t cmd = 0;
    std::uint32_t flags = 0;  // GENL_ADMIN_PERM, GENL_CMD_CAP_DO, ...
  };
  struct Group {
    std::uint32_t id = 0;
    std::string name = {};
  };
  std::string name = {};
  std::uint16_t id = 0;
  std::uint32_t version = 1;
  std::uint32_t header_size = 0, max_attribute = 0;
  std::vector<Operation> operations = {};
  std::vector<Group> groups = {};
};

// FamilyRequest asks for a family, or for its policies: CTRL_CMD_GETFAMILY, CTRL_CMD_GETPOLICY.
struct FamilyRequest {
  std::optional<std::uint16_t> id = {};
  std::optional<std::string_view> name = {};
  std::optional<std::uint32_t> operation = {};  // of the policies only those of this one
};

// CTRL_CMD_GETPOLICY tells, one by one, which policies the operations have and what is in each
// policy; the policies are numbered. Only written here, so there is no struct to read them into.
struct OperationPolicies {
  std::uint16_t family = 0;
  std::uint8_t operation = 0;
  std::optional<std::uint32_t> for_do = {}, for_dump = {};  // numbers of policies
};
struct PolicyAttribute {
  std::uint16_t family = 0;
  std::uint16_t number = 0;  // of the policy
  std::uint16_t attribute = 0;
  const Policy* policy = nullptr;  // what it asks of the attribute
  std::optional<std::uint32_t> nested = {};
};
void put(Writer& writer, const OperationPolicies& policies);
void put(Writer& writer, const PolicyAttribute& attribute);

// nlctrl_family is all that the server must know of nlctrl itself.
const Family& nlctrl_family();

}  // namespace psp::netlink
