// SPDX-License-Identifier: Apache-2.0
//
// KernelSockets: the core's SocketOps on real kernel TCP sockets. A descriptor is borrowed for one
// call; what stays is the association in the socket's own storage, put there by the socket programs
// under the socket lock.
//
// Threading: the control thread only.
#pragma once

#include <cstdint>
#include <map>
#include <unordered_map>

#include <psp/device/core.hh>
#include <psp/device/software_device.hh>

#include "bpf/abi.h"
#include "netns.hh"
#include "programs.hh"
#include "sock_diag.hh"

namespace psp::datapath {

class KernelSockets final : public device::SocketOps {
 public:
  // `programs` are attached; they and `namespaces`, whose sockets can be secured, outlive this.
  KernelSockets(const Secrets& secrets, const SocketPrograms& programs,
                const NetnsTable& namespaces);

  // Binding is what the sockets of a device need of it.
  struct Binding {
    device::SoftwareDevice* driver = nullptr;
    const std::uint32_t* rotation = nullptr;  // how often it has rotated its keys
  };
  void bind_device(std::uint16_t dev_id, const Binding& binding) { bindings_[dev_id] = binding; }
  void unbind_device(std::uint16_t dev_id) { bindings_.erase(dev_id); }

  // set_any_state: as Linux 6.18 has it, sockets that are not established can have associations,
  // also such that have no peer yet.
  void set_any_state(bool any) { any_state_ = any; }

  device::Result<device::SocketInfo> examine(int fd) override;
  device::Result<void> rx_attach(int fd, const device::Association& association) override;
  device::Result<void> tx_attach(int fd, const device::Association& association) override;

  // note_end tells which connection a socket was when it went: one that had its keys before it had
  // a peer has put itself into the maps.
  void note_end(const SecuredSocket& socket);
  // forget drops what was kept for the packets that a connection sends after its socket has gone.
  void forget(std::uint64_t cookie);

  // unconnected is how many sockets have a Tx key and no peer yet.
  std::size_t unconnected() const;

  // view looks at a socket, of whatever kind, under its lock. Errors: EOPNOTSUPP if the socket
  // programs do not see it.
  device::Result<psp_sock_view> view(int fd) const;

 private:
  psp_sockopt request_for(const device::Association& association) const;
  struct Connection;
  device::Result<void> switch_to_tx(int fd, const psp_sockopt& request) const;
  bool note_departed(const psp_tuple& tuple, const device::Association& association,
                     std::uint32_t rotation) const;
  void drop_entries(std::uint64_t cookie, const Connection& connection) const;
  static void settle_mss(int fd, bool lowered, const psp_sockopt& request);

  Secrets secrets_;
  const SocketPrograms& programs_;
  const NetnsTable& namespaces_;
  bool any_state_ = false;
  std::map<std::uint16_t, Binding> bindings_;

  // Connection is what the maps of the programs hold of one with a Tx key. Without a peer yet, its
  // tuple has no more than a namespace.
  struct Connection {
    psp_tuple tuple{};
    std::uint32_t tx_spi = 0;  // network order
  };
  std::unordered_map<std::uint64_t, Connection> connections_;  // by socket cookie
};

}  // namespace psp::datapath
