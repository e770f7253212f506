// SPDX-License-Identifier: Apache-2.0
//
// Kinds are told by their names, as ip(8) shows them. A kind that is not known here counts as one
// whose packets come by its own tc programs: all but those below do (tried: VLAN, bond, bridge,
// macvlan, ipvlan, veth, netkit).
//
// Threading: see link_facts.hh.
#include "link_facts.hh"

#include <cstring>
#include <fmt/format.h>
#include <libmnl/libmnl.h>
#include <linux/if_arp.h>
#include <linux/if_link.h>
#include <string_view>

#include "base/netlink_socket.hh"

namespace psp::kernel {

namespace {

bool is_ipvlan(std::string_view kind) { return kind == "ipvlan" || kind == "ipvtap"; }
bool is_macvlan(std::string_view kind) { return kind == "macvlan" || kind == "macvtap"; }

}  // namespace

void LinkFacts::read(const ifinfomsg& head, const nlattr* attribute) {
  ethernet = head.ifi_type == ARPHRD_ETHER;
  const auto read_data = [this](const nlattr* data) {
    const std::uint16_t type = mnl_attr_get_type(data);
    if (is_ipvlan(kind) && type == IFLA_IPVLAN_MODE) mode = mnl_attr_get_u16(data);
    if (is_macvlan(kind) && type == IFLA_MACVLAN_MODE) mode = mnl_attr_get_u32(data);
  };
  const auto read_info = [&](const nlattr* info) {
    const std::uint16_t type = mnl_attr_get_type(info);
    if (type == IFLA_INFO_KIND) kind = mnl_attr_get_str(info);  // comes before its data
    if (type == IFLA_INFO_SLAVE_KIND) port_kind = mnl_attr_get_str(info);
    if (type == IFLA_INFO_DATA) for_each_attribute(info, read_data);
  };
  switch (mnl_attr_get_type(attribute)) {
    case IFLA_IFNAME:
      name = mnl_attr_get_str(attribute);
      break;
    case IFLA_MTU:
      mtu = mnl_attr_get_u32(attribute);
      break;
    case IFLA_MASTER:
      master = mnl_attr_get_u32(attribute);
      break;
    case IFLA_LINK:
      lower = mnl_attr_get_u32(attribute);
      break;
    case IFLA_LINK_NETNSID:
      lower_elsewhere = true;
      break;
    case IFLA_LINKINFO:
      for_each_attribute(attribute, read_info);
      break;
    case IFLA_ADDRESS:
      if (mnl_attr_get_payload_len(attribute) == mac.size())
        std::memcpy(mac.data(), mnl_attr_get_payload(attribute), mac.size());
      break;
    default:
      break;
  }
}

std::string unfit(const LinkFacts& facts) {
  if (!facts.ethernet)
    return fmt::format("{} is not an Ethernet device; pspd needs one (eth, veth, bond, vlan ...)",
                       facts.name);
  // The stack says of packets that they came by these, though none passed a program of theirs: a
  // proof that somebody else has written on one would not be taken off.
  if (facts.kind == "vrf")
    return fmt::format("{} is a VRF, which no packet comes by itself", facts.name);
  if (is_ipvlan(facts.kind) && facts.mode == IPVLAN_MODE_L3S)
    return fmt::format(
        "{} is an ipvlan in mode l3s, which no packet comes by itself: take l2 or l3", facts.name);
  return {};
}

std::uint32_t port_of(const LinkFacts& facts) {
  return facts.port_kind == "vrf" ? 0 : facts.master;
}

std::uint32_t shares_address_with(const LinkFacts& facts) {
  const bool shares =
      facts.kind == "ipvlan" || (facts.kind == "macvlan" && facts.mode == MACVLAN_MODE_PASSTHRU);
  return shares ? facts.lower : 0;
}

}  // namespace psp::kernel
