// SPDX-License-Identifier: Apache-2.0
//
// ControlSocket carries netlink messages between clients and the server of the `psp` family: a unix
// SOCK_SEQPACKET socket, one datagram a request, the descriptor of `sock-fd` beside it.
//
// A client can cost pspd a bounded amount of memory and nobody else anything: requests wait in its
// socket while its answers wait here, and one that does not read loses notifications, as netlink
// has it.
//
// Threading: the control thread only.
#pragma once

#include <cstdint>
#include <expected>
#include <list>
#include <memory>
#include <string>

#include <psp/base/unique_fd.hh>
#include <psp/netlink/server.hh>

#include "closer.hh"
#include "event_loop.hh"

namespace psp {

class ControlSocket {
 public:
  // listen binds `address` ("@name": abstract, in this network namespace; else a path, made with
  // mode 0666: what a caller may do is judged by its credentials). `server` outlives this. Errors:
  // a sentence, also if another pspd has the address.
  static std::expected<std::unique_ptr<ControlSocket>, std::string> listen(
      EventLoop& loop, netlink::Server& server, const std::string& address);
  ~ControlSocket();
  ControlSocket(const ControlSocket&) = delete;
  ControlSocket& operator=(const ControlSocket&) = delete;

  static constexpr std::size_t kClientsMax = 4096;
  static constexpr std::size_t kRequestMax = 64 * 1024;

 private:
  struct Client;
  ControlSocket(EventLoop& loop, netlink::Server& server, UniqueFd listener, std::string path);
  void accept();
  void serve(Client& client);
  bool flush(Client& client);
  void drop(Client& client);
  void multicast(std::uint32_t group_bit, std::uint64_t netns, const netlink::Datagram& message);

  EventLoop& loop_;
  netlink::Server& server_;
  UniqueFd listener_;
  Closer closer_;
  std::string path_;  // to unlink; empty for an abstract address
  EventLoop::Source accept_;
  std::list<Client> clients_;
  std::unique_ptr<std::uint8_t[]> request_;
};

}  // namespace psp
