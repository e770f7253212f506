// SPDX-License-Identifier: Apache-2.0
//
// The way from a number or an offset in a request to a name: along the attributes of the request,
// with the names of its command beside it, into one nest if need be. The names are made of
// spec/psp.yaml and spec/softpsp.yaml by scripts/gen-netlink.
#include "netlink/names.hh"

#include <span>
#include <string_view>

#include "netlink/family.hh"

namespace psp::netlink {
namespace {

// Names are those of a set of attributes: that of number n is the one before n.
struct Names {
  std::span<const std::string_view> names;
  std::span<const Names* const> nested;  // what is inside, null if it is no nest
};

namespace of_psp {
#include "psp_names.inc"
}
namespace of_softpsp {
#include "softpsp_names.inc"
}

const Names* names_of(const nlmsghdr* request) {
  if (request->nlmsg_len < NLMSG_HDRLEN + GENL_HDRLEN) return nullptr;
  const auto* header = static_cast<const genlmsghdr*>(mnl_nlmsg_get_payload(request));
  // Of psp the kernel may have another number; softpsp is pspd's alone.
  const std::span<const Names* const> commands =
      request->nlmsg_type == kSoftpspFamilyId
          ? std::span<const Names* const>(of_softpsp::kOfCommand)
          : of_psp::kOfCommand;
  return header->cmd != 0 && header->cmd <= commands.size() ? commands[header->cmd - 1u] : nullptr;
}

const Names* nested_in(const Names* set, std::uint32_t type) {
  return set != nullptr && type != 0 && type <= set->nested.size() ? set->nested[type - 1]
                                                                   : nullptr;
}

std::string dotted(const Names* set, std::uint32_t type) {
  const bool known = set != nullptr && type != 0 && type <= set->names.size();
  return "." + (known ? std::string(set->names[type - 1]) : std::to_string(type));
}

// Named is the attribute that an offset leads to: its path, and the set of what is inside.
struct Named {
  std::string path;
  const Names* inside = nullptr;
};

Named find(const nlmsghdr* request, std::uint32_t offset) {
  const auto* start = reinterpret_cast<const std::uint8_t*>(request);
  const Names* set = names_of(request);
  Named found;
  for_each_attribute(message_attributes(request), [&](const nlattr* attribute) {
    const auto at = reinterpret_cast<const std::uint8_t*>(attribute) - start;
    if (offset < at || offset >= at + attribute->nla_len) return;
    const std::uint16_t type = mnl_attr_get_type(attribute);
    found = {dotted(set, type), nested_in(set, type)};
    if (offset == at || (attribute->nla_type & NLA_F_NESTED) == 0) return;
    const Named outer = found;
    for_each_attribute(get_octets(attribute), [&](const nlattr* inner) {
      const std::uint16_t inner_type = mnl_attr_get_type(inner);
      if (reinterpret_cast<const std::uint8_t*>(inner) - start == offset)
        found = {outer.path + dotted(outer.inside, inner_type),
                 nested_in(outer.inside, inner_type)};
    });
  });
  return found;
}

}  // namespace

std::string attribute_at(const nlmsghdr* request, std::uint32_t offset) {
  return find(request, offset).path;
}

std::string missing_attribute(const nlmsghdr* request, std::uint32_t type,
                              std::uint32_t nest_offset) {
  if (nest_offset == 0) return dotted(names_of(request), type);
  const Named nest = find(request, nest_offset);
  return nest.path + dotted(nest.inside, type);
}

}  // namespace psp::netlink
