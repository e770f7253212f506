// SPDX-License-Identifier: Apache-2.0
//
// The operations of the three families, each family in a file of its own: what a request asks for
// is done by the core, by the inspector or by the tables of the families, and answered. Results are
// 0 or a negative errno; Request::ack then says more.
#pragma once

#include <cstdint>
#include <memory>

#include "device/core.hh"
#include "netlink/dump.hh"
#include "netlink/inspector.hh"
#include "netlink/messages/psp.hh"
#include "netlink/request.hh"

namespace psp::netlink {

// Services are what the operations are made of.
struct Services {
  device::Core& core;
  Inspector* inspector;  // null: none

  bool first_release() const { return core.compat() == device::Compat::kLinux618; }
};

// do_psp and the like answer a request that is no dump.
int do_psp(Services& services, Request& request);
int do_softpsp(Services& services, Request& request);
int do_nlctrl(Services& services, Request& request);

// dump_psp and the like begin a dump: its source, and what is different in the head of its
// messages.
int dump_psp(Services& services, Request& request, std::unique_ptr<DumpSource>& source);
int dump_softpsp(Services& services, Request& request, std::unique_ptr<DumpSource>& source);
int dump_nlctrl(Services& services, Request& request, MessageHead& head,
                std::unique_ptr<DumpSource>& source);

// seen_from is the device as the namespace `netns` may see it: an associated one sees its own
// netdevs only.
DeviceInfo seen_from(std::uint64_t netns, const device::Core& core, const device::Device& device);

}  // namespace psp::netlink
