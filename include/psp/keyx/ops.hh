// SPDX-License-Identifier: Apache-2.0
//
// What the key exchange asks of PSP, as an interface: psp::Client stands behind it in programs, a
// model with faults in tests.
#pragma once

#include <array>
#include <chrono>
#include <expected>
#include <memory>
#include <optional>
#include <string>
#include <vector>

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

// Ends are the two ends of a connection as they are on the wire, the same octets whoever writes
// them: the address, 16 octets (IPv4 as ::ffff:a.b.c.d), and the port, big-endian.
using End = std::array<std::uint8_t, 18>;
struct Ends {
  End local{}, remote{};
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

  // ends asks the socket.
  virtual std::expected<Ends, OpsError> ends(int fd);
  // available says what can be received on the connected socket `fd`.
  virtual Availability available(int fd) = 0;
  virtual std::expected<RxAssocInfo, OpsError> rx_assoc(int fd, Version version) = 0;
  // tx_assoc fails with EBUSY while data that came in clear waits in the receive queue.
  virtual std::expected<void, OpsError> tx_assoc(int fd, Version version, const KeyInfo& tx) = 0;
};

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
  struct Link;
  std::unique_ptr<Link> link_;
};

// ClientOps is PspOps by way of the kernel's psp family or pspd.
// Thread: one user at a time.
class ClientOps final : public PspOps {
 public:
  // `remember` is for how long devices that can receive are taken to be as they were when last
  // asked for, and the only one there is, if pspd's, to be the device of every connection: two
  // questions less for each. Whoever disables receive meanwhile, or a route to elsewhere, makes
  // rx_assoc fail.
  explicit ClientOps(Client& client,
                     std::chrono::milliseconds remember = std::chrono::milliseconds(0))
      : client_(client), remember_(remember) {}

  Availability available(int fd) override;
  std::expected<RxAssocInfo, OpsError> rx_assoc(int fd, Version version) override;
  std::expected<void, OpsError> tx_assoc(int fd, Version version, const KeyInfo& tx) override;

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
  std::expected<RxAssocInfo, OpsError> rx_assoc(int fd, Version version) override;
  std::expected<void, OpsError> tx_assoc(int fd, Version version, const KeyInfo& tx) override;

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
