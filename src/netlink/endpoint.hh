// SPDX-License-Identifier: Apache-2.0
//
// One who serves the family, the kernel or pspd, as a client has it: a connection for requests and
// their answers, and a second one, opened by subscribe, for notifications, so that neither has to
// be sorted from the other.
// Threading: one user at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "netlink/connection.hh"
#include "netlink/error.hh"
#include "netlink/messages/nlctrl.hh"
#include "netlink/messages/psp.hh"

namespace psp::netlink {

class Endpoint {
 public:
  // open_kernel and open_daemon connect and resolve the family.
  static ClientResult<Endpoint> open_kernel();
  static ClientResult<Endpoint> open_daemon(const std::string& socket);

  Provider provider() const;
  Connection& connection() { return connection_; }

  // head begins a request of the psp family; own_head one of softpsp, which only pspd has
  // (EOPNOTSUPP).
  RequestHead head(const char* what, std::uint8_t cmd) const;
  ClientResult<RequestHead> own_head(const char* what, std::uint8_t cmd);

  // own_list is a dump of softpsp.
  template <typename Answer>
  ClientResult<std::vector<Answer>> own_list(const char* what, std::uint8_t cmd) {
    const auto head = own_head(what, cmd);
    if (!head) return std::unexpected(head.error());
    return connection_.list<Answer>(*head);
  }

  ClientResult<std::vector<DeviceInfo>> devices();
  ClientResult<DeviceInfo> device(std::uint32_t id);
  // serves asks pspd whether one of its devices is that of the socket.
  bool serves(int fd);

  // subscribe joins the groups anew; notification_fd is readable when there may be a notification,
  // -1 before. receive waits for a datagram of them; next is the oldest that nobody has taken yet.
  ClientResult<void> subscribe(bool mgmt, bool use);
  int notification_fd() const { return events_ ? events_->fd() : -1; }
  ClientResult<void> receive();
  std::optional<Notification> next();

 private:
  static ClientResult<Endpoint> open(ClientResult<Transport> transport, std::string socket);
  Endpoint(Connection connection, std::string socket, FamilyInfo family)
      : connection_(std::move(connection)), socket_(std::move(socket)), psp_(std::move(family)) {}

  DeviceInfo mine(DeviceInfo info) const;
  ClientResult<void> join(Connection& events, const char* group);

  Connection connection_;
  std::string socket_;  // pspd's
  FamilyInfo psp_;
  std::optional<FamilyInfo> softpsp_{};  // asked for when needed
  std::optional<Connection> events_{};
  std::vector<Notification> pending_{};  // newest first
};

}  // namespace psp::netlink
