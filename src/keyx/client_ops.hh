// SPDX-License-Identifier: Apache-2.0
//
// PspOps by way of psp::Client, with the routing table of the kernel to know which device is that
// of a connection; and PspOps of a host that has no PSP, with the reason for people. The exchange
// itself asks only PspOps (ops.hh), so tests give it a model and others their own. For libpsp-tls,
// psp-cat and psp-proxy, which remembers devices as it secures many connections.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "keyx/ops.hh"
#include "netlink/client.hh"

namespace psp {
class NetlinkSocket;
}

namespace psp::keyx {

// Routes asks the routing table of the network namespace in which it was asked first.
// Thread: one user at a time.
class Routes {
 public:
  Routes();
  ~Routes();

  // ifindex is the netdev by which the connected socket `fd` sends. nullopt: there is no route, or
  // the socket is not an IP socket.
  std::optional<unsigned> ifindex(int fd);

 private:
  std::unique_ptr<NetlinkSocket> socket_;
};

// ClientOps is PspOps by way of the kernel's psp family or pspd.
// Thread: one user at a time.
class ClientOps final : public PspOps {
 public:
  // `remember` is for how long devices that can receive are taken to be as they were when last
  // asked for, and the only one there is, if pspd's, to be the device of every connection: two
  // requests less for each. Whoever disables receive meanwhile, or a route to elsewhere, makes
  // rx_assoc fail.
  explicit ClientOps(Client& client,
                     std::chrono::milliseconds remember = std::chrono::milliseconds(0))
      : client_(client), remember_(remember) {}

  Availability available(int fd) override;
  ClientResult<RxAssocInfo> rx_assoc(int fd, Version version) override;
  ClientResult<void> tx_assoc(int fd, Version version, const KeyInfo& tx) override;

 private:
  Availability recall(int fd);
  Availability look(int fd, const std::vector<DeviceInfo>& devices);

  Client& client_;
  Routes routes_;
  std::chrono::milliseconds remember_;
  std::vector<DeviceInfo> devices_;
  std::optional<std::chrono::steady_clock::time_point> asked_;  // if there was a device
};

// AbsentOps is PspOps of a host without PSP: for those who would then stay on TLS.
class AbsentOps final : public PspOps {
 public:
  AbsentOps(Absence absence, std::string reason) : absence_(absence), reason_(std::move(reason)) {}

  Availability available(int fd) override;
  ClientResult<RxAssocInfo> rx_assoc(int fd, Version version) override;
  ClientResult<void> tx_assoc(int fd, Version version, const KeyInfo& tx) override;

 private:
  Absence absence_;
  std::string reason_;
};

// connect_ops is PspOps by a client of its own; for `socket` see Client::connect, for `remember`
// ClientOps.
ClientResult<std::unique_ptr<PspOps>> connect_ops(
    const std::optional<std::string>& socket,
    std::chrono::milliseconds remember = std::chrono::milliseconds(0));
// connect_or_absent is AbsentOps, with the reason, where nobody answers.
std::unique_ptr<PspOps> connect_or_absent(const std::optional<std::string>& socket);

}  // namespace psp::keyx
