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
#include <psp/device/software_driver.hh>

#include "bpf/abi.h"
#include "programs.hh"

namespace psp::datapath {

class KernelSockets final : public device::SocketOps {
 public:
  // `programs` are attached and outlive this.
  KernelSockets(const Secrets& secrets, const SocketPrograms& programs);

  // Binding says where the packets of a device's sockets go.
  struct Binding {
    std::uint32_t netdev_ifindex = 0;
    std::uint32_t tap_ifindex = 0;
    device::SoftwareDriver* driver = nullptr;
  };
  void bind_device(std::uint16_t dev_id, const Binding& binding) { bindings_[dev_id] = binding; }
  void unbind_device(std::uint16_t dev_id) { bindings_.erase(dev_id); }

  device::Result<device::SocketInfo> examine(int fd) override;
  device::Result<void> rx_attach(int fd, const device::Association& association) override;
  device::Result<void> tx_attach(int fd, const device::Association& association) override;

  // netns_cookie is that of the namespace that pspd was started in.
  std::uint64_t netns_cookie() const { return netns_cookie_; }

  // forget drops what was kept for the packets that a connection sends after its socket has gone.
  void forget(std::uint64_t cookie);

  // view looks at a socket under its lock. Errors: EOPNOTSUPP if the socket programs do not see it.
  device::Result<psp_sock_view> view(int fd) const;

 private:
  psp_sockopt request_for(const device::Association& association) const;
  void reserve_mss(int fd, std::uint32_t mss_before, const psp_sockopt& request) const;

  Secrets secrets_;
  const SocketPrograms& programs_;
  std::uint64_t netns_cookie_ = 0;
  std::map<std::uint16_t, Binding> bindings_;

  // Connection is what the maps of the programs hold of one with a Tx key.
  struct Connection {
    psp_tuple tuple{};
    psp_tx_spi tx_spi{};
  };
  std::unordered_map<std::uint64_t, Connection> connections_;  // by socket cookie
};

}  // namespace psp::datapath
