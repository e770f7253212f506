// SPDX-License-Identifier: Apache-2.0
//
// Events: what the kernel tells this host: sockets that have gone, netdevs and filters that have
// changed (in all namespaces that have a number here), and that the virtual machine is a copy. They
// come before all work for clients, and as fast as anybody likes to make them, so after a burst
// they rest for a moment.
//
// Threading: the control thread.
#pragma once

#include <cstdint>
#include <expected>
#include <functional>
#include <optional>
#include <string>

#include "base/loop.hh"
#include "base/unique_fd.hh"
#include "kernel/sock_diag.hh"
#include "kernel/vm_fork.hh"

namespace psp::host {

class Events {
 public:
  // Calls is who is told, on the loop.
  struct Calls {
    std::function<void(std::uint64_t cookie)> socket_gone;
    std::function<void()> sockets_missed;  // the kernel had to drop some: ask who is still there
    std::function<void(bool at_home)> netdevs_changed;
    std::function<void()> vm_forked;
  };
  // `loop` outlives this.
  Events(Loop& loop, Calls calls) : loop_(loop), calls_(std::move(calls)) {}
  Events(const Events&) = delete;
  Events& operator=(const Events&) = delete;

  // listen: from now on the kernel keeps what happens to sockets. watch: everything is heard, and
  // told once the loop runs; what the loop could not take on makes it incomplete. Errors: a
  // sentence.
  [[nodiscard]] std::expected<void, std::string> listen();
  [[nodiscard]] std::expected<void, std::string> watch();

 private:
  void on_sockets();
  void on_netdevs();
  void rest(Loop::Source& source);
  [[nodiscard]] std::expected<void, std::string> watch_netdevs();

  Loop& loop_;
  Calls calls_;
  std::optional<kernel::DestroyEvents> sockets_;
  std::optional<kernel::VmForkEvents> vm_forks_;
  UniqueFd netdevs_;
  Loop::Source socket_events_, netdev_events_;  // they rest after a burst, until
  Loop::Source rest_;                           // this
  Loop::Source vm_fork_events_;
};

}  // namespace psp::host
