// SPDX-License-Identifier: Apache-2.0
//
// Netdevs of each kind that matters, as the kernel's messages have them: also of kinds that the
// kernel under a test lacks. What is asked of them is who sees a packet first, and whether a netdev
// can have a device at all. tests/netns/stacked_test.cc has those that the kernel has, with
// packets.
#include "link_facts.hh"

#include <array>
#include <gtest/gtest.h>
#include <libmnl/libmnl.h>
#include <linux/if_arp.h>
#include <linux/if_link.h>

#include "base/netlink_socket.hh"

namespace psp::kernel {
namespace {

struct Link {
  const char* kind = nullptr;
  std::uint32_t mode = 0;
  const char* port_kind = nullptr;
  std::uint32_t master = 0, lower = 0;
  bool elsewhere = false;
  std::uint16_t type = ARPHRD_ETHER;
};

LinkFacts facts_of(const Link& link) {
  std::array<char, 1024> room{};
  nlmsghdr* message = mnl_nlmsg_put_header(room.data());
  auto* head = static_cast<ifinfomsg*>(mnl_nlmsg_put_extra_header(message, sizeof(ifinfomsg)));
  head->ifi_type = link.type;
  mnl_attr_put_strz(message, IFLA_IFNAME, "net0");
  mnl_attr_put_u32(message, IFLA_MTU, 1500);
  if (link.lower != 0) mnl_attr_put_u32(message, IFLA_LINK, link.lower);
  if (link.elsewhere) mnl_attr_put_u32(message, IFLA_LINK_NETNSID, 0);
  if (link.master != 0) mnl_attr_put_u32(message, IFLA_MASTER, link.master);
  nlattr* info = mnl_attr_nest_start(message, IFLA_LINKINFO);
  if (link.kind != nullptr) {
    mnl_attr_put_strz(message, IFLA_INFO_KIND, link.kind);
    nlattr* data = mnl_attr_nest_start(message, IFLA_INFO_DATA);
    if (std::string_view(link.kind) == "ipvlan")
      mnl_attr_put_u16(message, IFLA_IPVLAN_MODE, static_cast<std::uint16_t>(link.mode));
    else
      mnl_attr_put_u32(message, IFLA_MACVLAN_MODE, link.mode);
    mnl_attr_nest_end(message, data);
  }
  if (link.port_kind != nullptr) mnl_attr_put_strz(message, IFLA_INFO_SLAVE_KIND, link.port_kind);
  mnl_attr_nest_end(message, info);
  LinkFacts facts;
  for_each_attribute(message, sizeof(ifinfomsg),
                     [&](const nlattr* attribute) { facts.read(*head, attribute); });
  return facts;
}

TEST(LinkFacts, AreReadFromTheKernelsMessage) {
  const LinkFacts facts = facts_of({.kind = "macvlan", .mode = 4, .lower = 7, .elsewhere = true});
  EXPECT_EQ(facts.name, "net0");
  EXPECT_EQ(facts.kind, "macvlan");
  EXPECT_EQ(facts.mtu, 1500u);
  EXPECT_EQ(facts.mode, 4u);
  EXPECT_EQ(facts.lower, 7u);
  EXPECT_TRUE(facts.lower_elsewhere);
  EXPECT_EQ(unfit(facts), "");
}

TEST(LinkFacts, OfWhatNoPacketComesByItselfSayThatItIsUnfit) {
  EXPECT_NE(unfit(facts_of({.type = ARPHRD_LOOPBACK})).find("not an Ethernet device"),
            std::string::npos);
  EXPECT_NE(unfit(facts_of({.kind = "vrf"})).find("is a VRF"), std::string::npos);
  EXPECT_NE(unfit(facts_of({.kind = "ipvlan", .mode = IPVLAN_MODE_L3S})).find("l3s"),
            std::string::npos);
  for (const std::uint32_t mode : {IPVLAN_MODE_L2, IPVLAN_MODE_L3})
    EXPECT_EQ(unfit(facts_of({.kind = "ipvlan", .mode = mode})), "");
}

TEST(LinkFacts, OfAPortNameWhatTakesItsPackets) {
  for (const char* kind : {"bridge", "bond", "team"})
    EXPECT_EQ(port_of(facts_of({.port_kind = kind, .master = 5})), 5u) << kind;
  EXPECT_EQ(port_of(facts_of({.master = 5})), 5u) << "Open vSwitch says no kind";
  EXPECT_EQ(port_of(facts_of({.port_kind = "vrf", .master = 5})), 0u);
  EXPECT_EQ(port_of(facts_of({})), 0u);
}

TEST(LinkFacts, TellWhoHasTheAddressOfTheNetdevBelow) {
  EXPECT_EQ(shares_address_with(facts_of({.kind = "ipvlan", .lower = 7})), 7u);
  EXPECT_EQ(
      shares_address_with(facts_of({.kind = "macvlan", .mode = MACVLAN_MODE_PASSTHRU, .lower = 7})),
      7u);
  EXPECT_EQ(
      shares_address_with(facts_of({.kind = "macvlan", .mode = MACVLAN_MODE_BRIDGE, .lower = 7})),
      0u);
  EXPECT_EQ(shares_address_with(facts_of({.kind = "vlan", .lower = 7})), 0u);
}

}  // namespace
}  // namespace psp::kernel
