// SPDX-License-Identifier: Apache-2.0
//
// The fields of nlctrl's messages, in the order in which the kernel writes them. Its specification
// is the kernel's nlctrl.yaml, of which we need this much. nlctrl is older than strict checks: it
// passes over attributes that it does not know and takes one that is longer than its type
// (Strictness::kLiberal). Lists are arrays of the old kind, whose index stands where a type would.
// Answers are compared with a running kernel's in codec_test.cc.
#include "netlink/messages/nlctrl.hh"

#include <linux/genetlink.h>

#include "netlink/codec.hh"
#include "netlink/family.hh"
#include "netlink/messages/fields.hh"

namespace psp::netlink {

template <>
constexpr Wire kWire<CTRL_ATTR_FAMILY_ID> = Wire::kU16;
template <>
constexpr Wire kWire<CTRL_ATTR_FAMILY_NAME> = Wire::kString;
template <>
constexpr Wire kWire<CTRL_ATTR_VERSION> = Wire::kU32;
template <>
constexpr Wire kWire<CTRL_ATTR_HDRSIZE> = Wire::kU32;
template <>
constexpr Wire kWire<CTRL_ATTR_MAXATTR> = Wire::kU32;
template <>
constexpr Wire kWire<CTRL_ATTR_OPS> = Wire::kArray;
template <>
constexpr Wire kWire<CTRL_ATTR_MCAST_GROUPS> = Wire::kArray;
template <>
constexpr Wire kWire<CTRL_ATTR_OP> = Wire::kU32;
template <>
constexpr Wire kWire<CTRL_ATTR_OP_ID> = Wire::kU32;
template <>
constexpr Wire kWire<CTRL_ATTR_OP_FLAGS> = Wire::kU32;
template <>
constexpr Wire kWire<CTRL_ATTR_MCAST_GRP_ID> = Wire::kU32;
template <>
constexpr Wire kWire<CTRL_ATTR_MCAST_GRP_NAME> = Wire::kString;

template <>
constexpr auto kFields<FamilyInfo::Operation> = std::tuple{
    Field<CTRL_ATTR_OP_ID, &FamilyInfo::Operation::cmd>(),
    Field<CTRL_ATTR_OP_FLAGS, &FamilyInfo::Operation::flags>(),
};

template <>
constexpr auto kFields<FamilyInfo::Group> = std::tuple{
    Field<CTRL_ATTR_MCAST_GRP_ID, &FamilyInfo::Group::id>(),
    Field<CTRL_ATTR_MCAST_GRP_NAME, &FamilyInfo::Group::name>(),
};

template <>
constexpr auto kFields<FamilyInfo> = std::tuple{
    Field<CTRL_ATTR_FAMILY_NAME, &FamilyInfo::name>(),
    Field<CTRL_ATTR_FAMILY_ID, &FamilyInfo::id>(),
    Field<CTRL_ATTR_VERSION, &FamilyInfo::version>(),
    Field<CTRL_ATTR_HDRSIZE, &FamilyInfo::header_size>(),
    Field<CTRL_ATTR_MAXATTR, &FamilyInfo::max_attribute>(),
    Field<CTRL_ATTR_OPS, &FamilyInfo::operations>(),
    Field<CTRL_ATTR_MCAST_GROUPS, &FamilyInfo::groups>(),
};

template <>
constexpr auto kFields<FamilyRequest> = std::tuple{
    Field<CTRL_ATTR_FAMILY_ID, &FamilyRequest::id>(),
    Field<CTRL_ATTR_FAMILY_NAME, &FamilyRequest::name>(),
    Field<CTRL_ATTR_OP, &FamilyRequest::operation>(),
};

template void put(Writer&, const FamilyInfo&);
template void put(Writer&, const FamilyRequest&);
template FamilyInfo read(std::span<const std::uint8_t>);
template FamilyRequest read(std::span<const std::uint8_t>);

void put(Writer& writer, const OperationPolicies& policies) {
  writer.put_u16(CTRL_ATTR_FAMILY_ID, policies.family);
  nlattr* all = writer.nest(CTRL_ATTR_OP_POLICY);
  nlattr* one = writer.nest(policies.operation);
  if (policies.for_do) writer.put_u32(CTRL_ATTR_POLICY_DO, *policies.for_do);
  if (policies.for_dump) writer.put_u32(CTRL_ATTR_POLICY_DUMP, *policies.for_dump);
  writer.end_nest(one);
  writer.end_nest(all);
}

void put(Writer& writer, const PolicyAttribute& attribute) {
  writer.put_u16(CTRL_ATTR_FAMILY_ID, attribute.family);
  nlattr* all = writer.nest(CTRL_ATTR_POLICY);
  nlattr* one = writer.nest(attribute.number);
  put_policy(writer, attribute.attribute, *attribute.policy, attribute.nested);
  writer.end_nest(one);
  writer.end_nest(all);
}

namespace {

constexpr Policy kId = {.kind = Policy::Kind::kU16};
constexpr Policy kName = {.kind = Policy::Kind::kNulString, .max = GENL_NAMSIZ - 1};
constexpr Policy kNumber = {.kind = Policy::Kind::kU32};

constexpr Policy kGetFamilyPolicies[] = {{}, kId, kName};
constexpr PolicySet kGetFamily = {kGetFamilyPolicies};

constexpr Policy kGetPolicyPolicies[] = {{}, kId, kName, {}, {}, {}, {}, {}, {}, {}, kNumber};
constexpr PolicySet kGetPolicy = {kGetPolicyPolicies};
static_assert(CTRL_ATTR_FAMILY_ID == 1 && CTRL_ATTR_FAMILY_NAME == 2 && CTRL_ATTR_OP == 10);

constexpr Operation kOperations[] = {
    {.cmd = CTRL_CMD_GETFAMILY,
     .has_do = true,
     .has_dump = true,
     .do_policy = &kGetFamily,
     .dump_policy = &kGetFamily},
    {.cmd = CTRL_CMD_GETPOLICY, .has_dump = true, .dump_policy = &kGetPolicy},
};

constexpr Family kFamily = {.which = FamilyName::kNlctrl,
                            .name = "nlctrl",
                            .id = GENL_ID_CTRL,
                            .version = 2,
                            .strictness = Strictness::kLiberal,
                            .operations = kOperations};

}  // namespace

const Family& nlctrl_family() { return kFamily; }

}  // namespace psp::netlink
