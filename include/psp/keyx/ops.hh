// SPDX-License-Identifier: Apache-2.0
//
// What the key exchange asks of PSP, as an interface: psp::Client stands behind it in programs, a
// model with faults in tests.
#pragma once

#include <expected>
#include <memory>
#include <optional>
#include <string>

#include <psp/keyx/message.hh>
#include <psp/netlink/client.hh>
#include <psp/wire/types.hh>

namespace psp::keyx {

// Availability is what this host can receive on one connection.
struct Availability {
  VersionSet versions = {};  // cap and ena of the connection's device
  Absence absence = Absence::kNone;
  std::string reason = {};  // one sentence with what to do, where `versions` is empty
};

// OpsError is a refusal by the provider of PSP.
struct OpsError {
  int sys_errno = 0;
  std::string message;
};

// PspOps is PSP as the exchange needs it. Calls do not wait for the peer.
class PspOps {
 public:
  virtual ~PspOps() = default;

  // available says what can be received on the connected socket `fd`.
  virtual Availability available(int fd) = 0;
  virtual std::expected<RxAssocInfo, OpsError> rx_assoc(int fd, Version version) = 0;
  // tx_assoc fails with EBUSY while data that came in clear waits in the receive queue.
  virtual std::expected<void, OpsError> tx_assoc(int fd, Version version, const KeyInfo& tx) = 0;
};

// ClientOps is PspOps by way of the kernel's psp family or pspd.
// Thread: one user at a time.
class ClientOps final : public PspOps {
 public:
  explicit ClientOps(Client& client) : client_(client) {}

  Availability available(int fd) override;
  std::expected<RxAssocInfo, OpsError> rx_assoc(int fd, Version version) override;
  std::expected<void, OpsError> tx_assoc(int fd, Version version, const KeyInfo& tx) override;

 private:
  Client& client_;
};

// AbsentOps is PspOps of a host without PSP: for those who would then stay on TLS.
class AbsentOps final : public PspOps {
 public:
  AbsentOps(Absence absence, std::string reason) : absence_(absence), reason_(std::move(reason)) {}

  Availability available(int fd) override;
  std::expected<RxAssocInfo, OpsError> rx_assoc(int fd, Version version) override;
  std::expected<void, OpsError> tx_assoc(int fd, Version version, const KeyInfo& tx) override;

 private:
  Absence absence_;
  std::string reason_;
};

// connect_ops is PspOps by a client of its own, connected to the kernel or to pspd at `socket`.
ClientResult<std::unique_ptr<PspOps>> connect_ops(const std::string& socket);
// connect_or_absent is AbsentOps, with the reason, where nobody answers.
std::unique_ptr<PspOps> connect_or_absent(const std::string& socket);

// route_ifindex is the netdev by which the connected socket `fd` sends, as the routing table says.
// nullopt: there is no route, or the socket is not an IP socket.
std::optional<unsigned> route_ifindex(int fd);

}  // namespace psp::keyx
