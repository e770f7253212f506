// SPDX-License-Identifier: Apache-2.0
//
// The attribute names of the psp family.
#include "names.hh"

#include <psp/netlink/spec.hh>

namespace psp::netlink {
namespace {

using spec::AttributeSet;

const AttributeSet* set_of(const nlmsghdr* request) {
  if (request->nlmsg_len < NLMSG_HDRLEN + GENL_HDRLEN) return nullptr;
  const auto* header = static_cast<const genlmsghdr*>(mnl_nlmsg_get_payload(request));
  const spec::Operation* operation = spec::find_operation(header->cmd);
  return operation != nullptr ? operation->attributes : nullptr;
}

const AttributeSet* nested_set(const AttributeSet* set, std::uint16_t type) {
  const spec::Attribute* attribute = set != nullptr ? set->find(type) : nullptr;
  return attribute != nullptr ? attribute->nested : nullptr;
}

std::string dotted(const AttributeSet* set, std::uint32_t type) {
  const spec::Attribute* attribute =
      set != nullptr && type <= UINT16_MAX ? set->find(static_cast<std::uint16_t>(type)) : nullptr;
  return "." + (attribute != nullptr ? std::string(attribute->name) : std::to_string(type));
}

// Place is where an offset leads to: the path, and the set of what is inside.
struct Place {
  std::string path;
  const AttributeSet* inside = nullptr;
};

Place place_of(const nlmsghdr* request, std::uint32_t offset) {
  const auto* start = reinterpret_cast<const std::uint8_t*>(request);
  const AttributeSet* set = set_of(request);
  Place place;
  for_each_attribute(message_attributes(request), [&](const nlattr* attribute) {
    const auto at = reinterpret_cast<const std::uint8_t*>(attribute) - start;
    if (offset < at || offset >= at + attribute->nla_len) return;
    const std::uint16_t type = mnl_attr_get_type(attribute);
    place = {dotted(set, type), nested_set(set, type)};
    if (offset == at || (attribute->nla_type & NLA_F_NESTED) == 0) return;
    const Place outer = place;
    for_each_attribute(get_octets(attribute), [&](const nlattr* inner) {
      const std::uint16_t inner_type = mnl_attr_get_type(inner);
      if (reinterpret_cast<const std::uint8_t*>(inner) - start == offset)
        place = {outer.path + dotted(outer.inside, inner_type),
                 nested_set(outer.inside, inner_type)};
    });
  });
  return place;
}

}  // namespace

std::string attribute_at(const nlmsghdr* request, std::uint32_t offset) {
  return place_of(request, offset).path;
}

std::string missing_attribute(const nlmsghdr* request, std::uint32_t type,
                              std::uint32_t nest_offset) {
  if (nest_offset == 0) return dotted(set_of(request), type);
  const Place nest = place_of(request, nest_offset);
  return nest.path + dotted(nest.inside, type);
}

}  // namespace psp::netlink
