// SPDX-License-Identifier: Apache-2.0
//
// The attribute names of the psp family.
#include "names.hh"

#include <span>
#include <string_view>

#include <psp/netlink/uapi.h>

namespace psp::netlink {
namespace {

using Names = std::span<const std::string_view>;

constexpr std::string_view kDev[] = {
    "",           "id",   "ifindex",       "psp-versions-cap", "psp-versions-ena",
    "assoc-list", "nsid", "by-association"};
constexpr std::string_view kAssoc[] = {"", "dev-id", "version", "rx-key", "tx-key", "sock-fd"};
constexpr std::string_view kKeys[] = {"", "key", "spi"};
constexpr std::string_view kStats[] = {"", "dev-id"};

Names names_of(const nlmsghdr* request) {
  if (request->nlmsg_len < NLMSG_HDRLEN + GENL_HDRLEN) return {};
  switch (static_cast<const genlmsghdr*>(mnl_nlmsg_get_payload(request))->cmd) {
    case PSPNL_CMD_RX_ASSOC:
    case PSPNL_CMD_TX_ASSOC:
      return kAssoc;
    case PSPNL_CMD_GET_STATS:
      return kStats;
    default:
      return kDev;
  }
}

std::string dotted(Names names, std::uint32_t type) {
  if (type != 0 && type < names.size()) return "." + std::string(names[type]);
  return "." + std::to_string(type);
}

}  // namespace

std::string attribute_at(const nlmsghdr* request, std::uint32_t offset) {
  const auto* start = reinterpret_cast<const std::uint8_t*>(request);
  const Names names = names_of(request);
  std::string found;
  for_each_attribute(message_attributes(request), [&](const nlattr* attribute) {
    const auto at = reinterpret_cast<const std::uint8_t*>(attribute) - start;
    if (offset < at || offset >= at + attribute->nla_len) return;
    found = dotted(names, mnl_attr_get_type(attribute));
    if (offset == at || (attribute->nla_type & NLA_F_NESTED) == 0) return;
    for_each_attribute(get_octets(attribute), [&](const nlattr* inner) {
      if (reinterpret_cast<const std::uint8_t*>(inner) - start == offset)
        found += dotted(kKeys, mnl_attr_get_type(inner));
    });
  });
  return found;
}

std::string missing_attribute(const nlmsghdr* request, std::uint32_t type,
                              std::uint32_t nest_offset) {
  if (nest_offset == 0) return dotted(names_of(request), type);
  return attribute_at(request, nest_offset) + dotted(kKeys, type);
}

}  // namespace psp::netlink
