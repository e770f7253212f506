// SPDX-License-Identifier: Apache-2.0
//
// LinkFacts: what the kernel says of a netdev among others (RTM_NEWLINK), as far as it decides
// which of them sees a packet first. What pspd has opened at a netdev is believed at that netdev
// only, so it has to be opened where the stack takes it.
//
// Threading: any; nothing here asks the kernel.
#pragma once

#include <array>
#include <cstdint>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <string>

namespace psp::kernel {

struct LinkFacts {
  // read takes one attribute of the message over; all of them make the facts.
  void read(const ifinfomsg& head, const nlattr* attribute);

  bool ethernet = false;
  std::string name, kind, port_kind;  // "macvlan"; "bridge", if it is a port of one
  std::array<std::uint8_t, 6> mac{};
  std::uint32_t mtu = 0;
  std::uint32_t master = 0, lower = 0;  // ifindex of what it is a port of, and lies on; 0: none
  bool lower_elsewhere = false;         // in another network namespace
  std::uint32_t mode = 0;  // of an ipvlan (IPVLAN_MODE_...) or macvlan (MACVLAN_MODE_...)
};

// unfit says why it cannot have a PSP device, nor use one; empty: it can.
std::string unfit(const LinkFacts& facts);

// port_of is what takes its packets, whoever they are for: a bridge, a bond. 0: none does. (A VRF
// lets them pass the netdev's own programs.)
std::uint32_t port_of(const LinkFacts& facts);

// shares_address_with is the netdev below if that one has the same address, and so takes PSP
// packets that are for this one. 0: none.
std::uint32_t shares_address_with(const LinkFacts& facts);

}  // namespace psp::kernel
