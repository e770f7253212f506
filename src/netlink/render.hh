// SPDX-License-Identifier: Apache-2.0
//
// Answers and notifications of the families `psp` and `softpsp` as attributes.
#pragma once

#include <algorithm>

#include <psp/device/core.hh>
#include <psp/netlink/client.hh>

#include "codec.hh"

namespace psp::netlink {

// put_device shows the device as the namespace `netns` may see it: an associated one sees its own
// netdevs only.
void put_device(Writer& writer, const device::Core& core, const device::Device& device,
                std::uint64_t netns);
void put_stats(Writer& writer, std::uint32_t id, const device::DeviceStats& stats);
void put_association(Writer& writer, const AssocInfo& info);
void put_packet(Writer& writer, const KeptPacket& packet);
void put_info(Writer& writer, const DaemonInfo& info);
void put_info_device(Writer& writer, const DaemonInfo::Device& device);

// for_each_namespace visits every namespace that sees the device once, the main one last, as the
// kernel does.
template <typename Visit>
void for_each_namespace(const device::Device& device, Visit&& visit) {
  const auto& all = device.associated;
  for (auto it = all.begin(); it != all.end(); ++it) {
    const auto same = [&](const device::NetdevKey& other) { return other.netns == it->netns; };
    if (it->netns != device.netdev.netns && std::none_of(all.begin(), it, same)) visit(it->netns);
  }
  visit(device.netdev.netns);
}

}  // namespace psp::netlink
