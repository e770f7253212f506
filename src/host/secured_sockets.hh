// SPDX-License-Identifier: Apache-2.0
//
// SecuredSockets: the sockets of this host that this pspd secures, all devices together. It has the
// programs that see them (kernel::SocketPrograms), the namespaces that they can be in, and the ways
// to end them and to attach keys to one (kernel::KernelSockets). It lives from the
// lock that says that this pspd is alive to the moment when its programs go.
//
// Threading: the control thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/log.hh"
#include "base/unique_fd.hh"
#include "kernel/leftover.hh"
#include "kernel/netdev.hh"
#include "kernel/netns.hh"
#include "kernel/programs.hh"
#include "kernel/sock_diag.hh"
#include "kernel/sockets.hh"
#include "kernel/upkeep.hh"

#include "settings.hh"
#include "takeover.hh"

namespace psp::host {

class SecuredSockets {
 public:
  // open begins the life of this pspd; nothing is in place yet. Errors, here and below: a sentence.
  static std::expected<std::unique_ptr<SecuredSockets>, std::string> open(const Log& log);
  SecuredSockets(const SecuredSockets&) = delete;
  SecuredSockets& operator=(const SecuredSockets&) = delete;

  // attach puts our socket programs in the place of those of dead pspds, whose connections it ends
  // first. `netdevs` are those that are claimed. After an error some may be in place: see detach.
  [[nodiscard]] std::expected<void, std::string> attach(const Settings& settings,
                                                        std::span<const kernel::Netdev> netdevs);
  // attached: there are programs to detach.
  bool attached() const { return programs_.has_value(); }
  // inherited are the cookies of an earlier pspd's sockets that are still to be seen to end.
  const std::vector<std::uint64_t>& inherited() const { return inherited_; }
  // clear_netdevs takes programs of ours off the netdevs where some could not be taken off before.
  [[nodiscard]] std::expected<void, std::string> clear_netdevs() const;
  // detach takes the programs off. Nothing blocks a socket then: one that has begun another
  // connection since end_all is aborted, before it sends its SYN again. Errors: a sentence; the
  // programs are in place, if they can be.
  [[nodiscard]] std::expected<void, std::string> detach();

  // is_own: secured by this pspd, and not by an earlier one.
  bool is_own(const kernel::SecuredSocket& socket) const {
    return socket.assoc.epoch == secrets_.epoch;
  }
  // end aborts those that are meant (all of them: no `which`). The kernel is asked again if it has
  // no memory for its answer.
  std::expected<kernel::Ended, std::string> end(const kernel::Which& which = {}) const;
  // end_all aborts all and returns how many could still go on: they are not to be aborted, or are
  // in no listing.
  std::expected<std::size_t, std::string> end_all() const;

  // look_after puts back what somebody has taken off. A sentence for the log if things have
  // changed.
  std::optional<std::string> look_after(std::chrono::steady_clock::time_point now);
  const kernel::Condition& condition() const { return upkeep_.condition(); }
  kernel::DropCounts drops() const { return programs_->drops(); }

  // is_deserted: `ours` references of pspd keep a namespace alive; does nobody else?
  bool is_deserted(const kernel::Netns& netns, std::size_t ours) const;
  // leave gives up a namespace where nothing of ours is left.
  void leave(std::uint64_t netns);

  const kernel::Secrets& secrets() const { return secrets_; }
  kernel::NetnsTable& namespaces() { return namespaces_; }
  const kernel::NetnsTable& namespaces() const { return namespaces_; }
  // programs and operations are there when attach has succeeded.
  const kernel::SocketPrograms& programs() const { return *programs_; }
  kernel::KernelSockets& operations() { return *operations_; }
  // refused counts tx-assocs for which there was no room.
  std::uint64_t refused() const { return operations_->room().refused(); }

 private:
  SecuredSockets(kernel::Secrets secrets, kernel::NetnsTable namespaces, UniqueFd alive,
                 const Log& log)
      : secrets_(secrets),
        namespaces_(std::move(namespaces)),
        alive_(std::move(alive)),
        log_(log) {}
  std::vector<std::uint64_t> namespaces_of(const kernel::Leftover* inherited) const;
  [[nodiscard]] std::expected<void, std::string> inherit();
  kernel::SecuredMaps maps() const { return {programs_->maps().assoc, programs_->maps().noted}; }

  kernel::Secrets secrets_;
  kernel::NetnsTable namespaces_;  // home, and those with associated netdevs
  UniqueFd alive_;                 // the lock that says so
  const Log& log_;
  std::optional<kernel::SocketPrograms> programs_;
  std::optional<kernel::KernelSockets> operations_;
  kernel::Upkeep upkeep_;  // of the programs
  std::vector<std::uint64_t> inherited_;
};

}  // namespace psp::host
