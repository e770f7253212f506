// SPDX-License-Identifier: Apache-2.0
//
// Listeners: where this pspd can be called. Abstract names are of a network namespace each, so
// there is a control socket at home and one in each namespace that has a netdev of ours; a path is
// the same for all that see the file.
//
// Threading: the control thread. It enters a namespace for one piece of work and comes back.
#pragma once

#include <cstdint>
#include <expected>
#include <map>
#include <memory>
#include <string>

#include "base/log.hh"
#include "control/clients.hh"
#include "control/control_socket.hh"
#include "kernel/netns.hh"

namespace psp::host {

class Listeners {
 public:
  // `clients` and `log` outlive this.
  Listeners(control::Clients& clients, std::string address, const Log& log)
      : clients_(clients), address_(std::move(address)), log_(log) {}

  // listen_at_home listens in the calling thread's namespace. Errors: a sentence.
  std::expected<void, std::string> listen_at_home();
  // listen_in makes us reachable for the callers of another namespace, if they need it and cannot
  // reach us yet.
  void listen_in(const kernel::Netns& netns);
  void leave(std::uint64_t netns) { elsewhere_.erase(netns); }
  // references is how many references to another namespace these are.
  std::size_t references(std::uint64_t netns) const { return elsewhere_.count(netns); }

 private:
  control::Clients& clients_;
  std::string address_;
  const Log& log_;
  std::unique_ptr<control::ControlSocket> at_home_;
  std::map<std::uint64_t, std::unique_ptr<control::ControlSocket>> elsewhere_;  // by cookie
};

}  // namespace psp::host
