// SPDX-License-Identifier: Apache-2.0
//
// Inspection answers the `softpsp` family: what an operator asks about this host that the core does
// not know. It looks at the parts when it is asked, and keeps nothing but whom it has refused and
// told the log of.
//
// Threading: the control thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/log.hh"
#include "base/loop.hh"
#include "netlink/server.hh"

#include "devices.hh"
#include "key_release.hh"
#include "refusals.hh"
#include "secured_sockets.hh"
#include "socket_lists.hh"

namespace psp::host {

class Inspection final : public netlink::Inspector {
 public:
  // Self is what this run of the program is known by.
  struct Self {
    std::string version;
    std::string crypto_backend;
    std::uint64_t instance = 0;  // random: by it clients know one run from another
  };
  // What is passed by reference outlives this. `keys_allowed`: see KeyRelease.
  Inspection(Self self, Devices& devices, const SecuredSockets& sockets, SocketLists& lists,
             bool keys_allowed, const Loop& loop, const Log& log);

  std::unique_ptr<netlink::Associations> associations(Visible visible) override;
  DaemonInfo daemon_info() override;
  std::vector<KeptPacket> kept_packets() override;
  device::Result<CapturedKey> captured_key(const netlink::Caller& caller,
                                           std::span<const std::uint8_t> datagram) override {
    return key_release_.key_of(caller, datagram);
  }
  void no_room(const netlink::Caller& caller, int fd, const device::Error& error) override;
  std::uint64_t home_netns() override { return sockets_.namespaces().home().cookie(); }

 private:
  std::optional<AssocInfo> describe(const kernel::SecuredSocket& socket) const;
  DaemonInfo::Device device_info(const kernel::HostDevice& device);

  Self self_;
  Devices& devices_;
  const SecuredSockets& sockets_;
  SocketLists& lists_;
  KeyRelease key_release_;
  const Loop& loop_;  // the time
  const Log& log_;
  Refusals refusals_;
  std::map<std::uint16_t, std::uint64_t> refused_;  // how often, by device
};

}  // namespace psp::host
