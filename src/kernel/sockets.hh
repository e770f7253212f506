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
#include <optional>

#include "bpf/structs.h"
#include "device/core.hh"
#include "device/software_device.hh"

#include "netns.hh"
#include "programs.hh"
#include "room.hh"

namespace psp::kernel {

class KernelSockets final : public device::SocketOps {
 public:
  // `programs` are attached; they and `namespaces`, whose sockets can be secured, outlive this.
  KernelSockets(const Secrets& secrets, const SocketPrograms& programs,
                const NetnsTable& namespaces);

  // bind_device says who has the Tx keys of a device; it stays until unbind_device.
  void bind_device(std::uint16_t dev_id, device::SoftwareDevice& driver) {
    drivers_[dev_id] = &driver;
  }
  void unbind_device(std::uint16_t dev_id) { drivers_.erase(dev_id); }

  // set_any_state: as Linux up to 7.3 has it, sockets that are not established can have
  // associations, also such that have no peer yet.
  void set_any_state(bool any) { any_state_ = any; }

  device::Result<device::SocketInfo> examine(int fd) override;
  device::Result<void> rx_attach(int fd, const device::Association& association) override;
  device::Result<device::TxSwitch> tx_attach(int fd,
                                             const device::Association& association) override;

  // forget drops what was kept for the packets that a connection sends after its socket has gone.
  // False: some of it is still there, and it is to be tried again.
  [[nodiscard]] bool forget(std::uint64_t cookie) const;

  // is_released: has the application closed the socket? Until then one with a Tx key is alive, also
  // if the kernel does not list it. Nothing: the kernel does not tell.
  std::optional<bool> is_released(std::uint64_t cookie) const;

  // room knows of the connections that the maps had none for.
  Room& room() { return room_; }
  const Room& room() const { return room_; }

  // view looks at a socket, of whatever kind, under its lock. Errors: EOPNOTSUPP if the socket
  // programs do not see it.
  device::Result<psp_sock_view> view(int fd) const;

 private:
  psp_sockopt request_for(const device::Association& association) const;
  static device::Result<device::TxSwitch> refusal_of_switch(int error);
  std::optional<bool> is_switched(int fd) const noexcept;
  device::Result<void> note(int fd, const psp_sock_view& view,
                            const device::Association& association);
  device::TxSwitch finish_switch(int fd, const device::Association& association,
                                 device::SoftwareDevice& driver,
                                 const psp_sock_view& before) const noexcept;
  std::optional<psp_u32> stored_boundary(int fd) const noexcept;
  static void settle_mss(int fd, bool lowered, const psp_sockopt& request);

  Secrets secrets_;
  const SocketPrograms& programs_;
  const NetnsTable& namespaces_;
  bool any_state_ = false;
  Room room_;
  std::map<std::uint16_t, device::SoftwareDevice*> drivers_;  // by device
};

}  // namespace psp::kernel
