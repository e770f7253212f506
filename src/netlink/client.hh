// SPDX-License-Identifier: Apache-2.0
//
// psp::Client speaks Linux's `psp` netlink family: to the kernel where it has the family, and to
// pspd where one answers. The messages are the same octets; only the way they travel differs. So a
// program that secures a connection need not know whether a NIC or pspd seals its packets. No call
// waits longer than some seconds for an answer that does not come. Used by the C interface, the key
// exchange and the programs.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "netlink/error.hh"
#include "netlink/messages/psp.hh"
#include "netlink/messages/softpsp.hh"
#include "wire/types.hh"

namespace psp {

namespace netlink {
class Endpoint;
}

// kCommonSocket is where pspd listens unless told otherwise: an abstract unix socket, which like
// the kernel's family belongs to a network namespace.
inline constexpr const char* kCommonSocket = "@softpsp";
// chosen_socket is where the user says that pspd listens: $PSP_SOCKET. nullopt: nothing is said.
std::optional<std::string> chosen_socket();
// default_socket is $PSP_SOCKET, else kCommonSocket.
std::string default_socket();

// Client is a connection to all who serve the family here. Who is asked:
//   about a socket     pspd, if the socket's route is by a netdev of a device of pspd, else the
//                      kernel (a device by id: only if no route says otherwise)
//   about a device     whose it is: where the kernel has the family, ids of pspd begin at 0x8001
//   for a list         both, pspd first; so it is with notifications
// Thread: one user at a time.
class Client {
 public:
  using Provider = psp::Provider;

  // connect: with a `socket` ("@name" is abstract) pspd there and nobody else, whatever the kernel
  // has. Without: the kernel's family and pspd at kCommonSocket, or the one of them that there is.
  // pspd must run as root or as the caller, else it is not trusted with a key (EPERM). No answer
  // within 5 s: ETIMEDOUT. Neither is there: ENOENT, with a text that says so.
  static ClientResult<Client> connect(const std::optional<std::string>& socket = chosen_socket());
  static ClientResult<Client> connect_daemon(const std::string& socket = default_socket());
  static ClientResult<Client> connect_kernel();

  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client();

  bool has(Provider provider) const;

  ClientResult<std::vector<DeviceInfo>> devices();
  ClientResult<DeviceInfo> device(std::uint32_t id);
  ClientResult<void> set_versions(std::uint32_t id, VersionSet ena);
  ClientResult<void> key_rotate(std::uint32_t id);
  // dev_assoc lets another netdev use the device: one in the caller's network namespace, or in the
  // one that it knows as `nsid`. dev_disassoc takes that back.
  ClientResult<void> dev_assoc(std::uint32_t id, std::uint32_t ifindex,
                               std::optional<std::int32_t> nsid = {});
  ClientResult<void> dev_disassoc(std::uint32_t id, std::uint32_t ifindex,
                                  std::optional<std::int32_t> nsid = {});
  // fd stays the caller's. dev_id absent: the device of the socket's route.
  ClientResult<RxAssocInfo> rx_assoc(int fd, Version version,
                                     std::optional<std::uint32_t> dev_id = {});
  ClientResult<void> tx_assoc(int fd, Version version, const KeyInfo& tx,
                              std::optional<std::uint32_t> dev_id = {});
  ClientResult<std::vector<StatsInfo>> stats();
  ClientResult<StatsInfo> stats(std::uint32_t dev_id);

  // subscribe joins `mgmt` and `use`; next_notification then waits for one (nullopt: time is up).
  // Errors: ENOBUFS: the caller did not read and has lost some; it may go on. Others are the end.
  // notification_fd is readable when there may be one.
  ClientResult<void> subscribe(bool mgmt, bool use);
  ClientResult<std::optional<Notification>> next_notification(std::chrono::milliseconds timeout);
  int notification_fd() const;

  // Request is one operation of the psp family as numbers, for tools that know operations as data.
  struct Request {
    const char* name = "";  // begins the sentence of an error, for example "dev-get"
    std::uint8_t cmd = 0;
    bool dump = false;
    int fd = -1;                               // to go with it, or -1; stays the caller's
    std::span<const std::uint8_t> attributes;  // well-formed and 4-octet aligned
  };
  // request asks and shows `on_answer` the attributes of each answer; they are wiped behind it.
  ClientResult<void> request(
      const Request& request,
      const std::function<void(std::span<const std::uint8_t> attributes)>& on_answer);

  // Only pspd answers this, and the functions below: EOPNOTSUPP where only the kernel serves.
  ClientResult<std::vector<AssocInfo>> associations();

 private:
  struct Impl;
  explicit Client(std::unique_ptr<Impl> impl);
  static ClientResult<Client> of(ClientResult<netlink::Endpoint> endpoint);
  std::unique_ptr<Impl> impl_;

  friend ClientResult<DaemonInfo> daemon_info(Client& client);
  friend ClientResult<std::vector<KeptPacket>> kept_packets(Client& client);
  friend ClientResult<CapturedKey> captured_key(Client& client,
                                                std::span<const std::uint8_t> datagram);
};

// daemon_info is what pspd says of itself and its devices.
ClientResult<DaemonInfo> daemon_info(Client& client);
// kept_packets are the newest of all devices; needs CAP_NET_ADMIN in pspd's namespace.
ClientResult<std::vector<KeptPacket>> kept_packets(Client& client);
// captured_key is the key of the PSP datagram (UDP payload), which must be one of a secured
// connection of that pspd; at most 16000 octets. An empty one: only whether keys may be asked for.
// Errors: EPERM unless the caller is root and pspd runs with --allow-key-export; ENOENT: no
// connection of this pspd.
ClientResult<CapturedKey> captured_key(Client& client, std::span<const std::uint8_t> datagram);

}  // namespace psp
