// SPDX-License-Identifier: Apache-2.0
//
// ControlSocket: a unix SOCK_SEQPACKET socket where clients come to. pspd has one at home and one
// in each namespace that it serves: a client belongs to the namespace of the socket that it
// connects with, however it found us. What becomes of a connection is the business of Clients.
//
// Threading: the control thread only.
#pragma once

#include <expected>
#include <memory>
#include <string>

#include "base/loop.hh"
#include "base/socket_file.hh"
#include "base/unique_fd.hh"

#include "clients.hh"

namespace psp::control {

class ControlSocket {
 public:
  // listen binds `address` ("@name": abstract, in this thread's network namespace; else a path,
  // made with mode 0666: what a caller may do is judged by its credentials). `clients` outlives
  // this. Errors: a sentence, also if another pspd has the address.
  static std::expected<std::unique_ptr<ControlSocket>, std::string> listen(
      Clients& clients, const std::string& address);
  ~ControlSocket() { clients_.turns().leave(turn_); }
  ControlSocket(const ControlSocket&) = delete;
  ControlSocket& operator=(const ControlSocket&) = delete;

 private:
  ControlSocket(Clients& clients, SocketFile listener);
  int watch();
  void go_on();
  void accept_one();

  Clients& clients_;
  SocketFile listener_;
  FairShare::Turn turn_;
  UniqueFd held_;  // accepted, but there is nothing to be done with it now
  Loop::Source accept_;
  Loop::Source pause_;  // while there is no descriptor to accept with
};

}  // namespace psp::control
