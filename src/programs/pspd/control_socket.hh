// SPDX-License-Identifier: Apache-2.0
//
// ControlSocket carries netlink messages between clients and the server of the `psp` family: a unix
// SOCK_SEQPACKET socket, one datagram a request, the descriptor of `sock-fd` beside it. Requests of
// libpsp-genl.so come in an envelope and are answered on the program's netlink socket (Delivery).
//
// A client can cost pspd a bounded amount of memory and nobody else anything: requests wait in its
// socket while its answers wait here, one that does not read loses notifications, as netlink has
// it, what closing its descriptors may cost is paid by a thread of its user's (Closer), and users
// have their turns by what they took before (FairShare), however many connections one has.
//
// Threading: the control thread only.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <string>

#include <psp/base/unique_fd.hh>
#include <psp/netlink/server.hh>

#include "event_loop.hh"
#include "fair_share.hh"
#include "socket_file.hh"

namespace psp {

class ControlSocket {
 public:
  // listen binds `address` ("@name": abstract, in this thread's network namespace; else a path,
  // made with mode 0666: what a caller may do is judged by its credentials). One for each namespace
  // is right: a client belongs to the namespace of the socket that it connects with, however it
  // found us. Those of one server share their limits and its notifications. `server` outlives this.
  // Errors: a sentence, also if another pspd has the address.
  static std::expected<std::unique_ptr<ControlSocket>, std::string> listen(
      EventLoop& loop, netlink::Server& server, const std::string& address);
  ~ControlSocket();
  ControlSocket(const ControlSocket&) = delete;
  ControlSocket& operator=(const ControlSocket&) = delete;

  static constexpr std::size_t kClientsMax = 4096;     // a quarter of it a user, but root; and
  static constexpr std::size_t kClientsOfRoot = 256;   // of these stay free for root
  static constexpr std::size_t kClosingMax = 256;      // descriptors of a user that hang in close()
  static constexpr std::size_t kOctetsMax = 16 << 20;  // held for clients; a quarter a user
  static constexpr std::size_t kRequestMax = 64 * 1024;

 private:
  struct Client;
  class Hub;  // what the listeners of one server share
  ControlSocket(std::shared_ptr<Hub> hub, SocketFile listener);
  int watch();
  void go_on();
  void accept_one();

  std::shared_ptr<Hub> hub_;
  SocketFile listener_;
  FairShare::Place place_;
  UniqueFd held_;  // accepted, but there is nothing to be done with it now
  EventLoop::Source accept_;
  EventLoop::Source pause_;  // while there is no descriptor to accept with
};

}  // namespace psp
