// SPDX-License-Identifier: Apache-2.0
//
// Host: PSP on this host, from the moment it starts to the moment it has put the host back. It has
// one of each part, and the order in which they come and go; what happens is told to the parts by
// it, and what they answer is done by it. A program gives it a loop, a log and settings.
//
// Threading: the control thread, which runs the loop. Workers run inside the devices.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/backoff.hh"
#include "base/duty_cycle.hh"
#include "base/log.hh"
#include "base/loop.hh"
#include "control/clients.hh"
#include "device/software_driver.hh"
#include "netlink/server.hh"

#include "departures.hh"
#include "devices.hh"
#include "events.hh"
#include "inspection.hh"
#include "listeners.hh"
#include "recount.hh"
#include "secured_sockets.hh"
#include "settings.hh"
#include "socket_lists.hh"
#include "socket_walk.hh"

namespace psp::host {

class Host {
 public:
  // start brings everything up, in an order in which a failure leaves nothing behind. `loop` and
  // `log` outlive this; `version` is the program's. From then on the loop is stopped, with code 1,
  // if keys that another machine has too cannot be replaced. Errors: a sentence that says what is
  // missing and how to get it.
  static std::expected<std::unique_ptr<Host>, std::string> start(Loop& loop, const Log& log,
                                                                 const Settings& settings,
                                                                 std::string version);
  ~Host();
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  // waiting_for are netdevs that are to have a PSP device and are not there.
  std::vector<std::string> waiting_for() const { return devices_->waiting_for(); }
  // apply changes to other settings, as far as it can while it runs; the log says what stays.
  void apply(const Settings& next);
  // stop puts the host back; after that there is nothing to be done with this. Returns the exit
  // code: 1 if something had to stay.
  int stop();

 private:
  Host(Loop& loop, const Log& log, const Settings& settings, std::string version);
  [[nodiscard]] std::expected<void, std::string> bring_up();
  // Claim is a netdev of the settings that is this pspd's.
  struct Claim {
    kernel::Netdev netdev;
    UniqueFd lock;
  };
  std::expected<std::vector<Claim>, std::string> claim_netdevs();
  [[nodiscard]] std::expected<void, std::string> attach_programs(const std::vector<Claim>& claims);
  void assemble(kernel::HostDeviceOptions options);
  [[nodiscard]] std::expected<void, std::string> serve();
  [[nodiscard]] std::expected<void, std::string> watch();
  [[nodiscard]] bool rotate_every(std::chrono::seconds interval);
  [[nodiscard]] bool end_connections();

  Events::Calls calls();
  void on_vm_fork();
  std::expected<std::size_t, std::string> end_old_connections();
  void on_netdevs_changed(bool at_home);
  void expire();
  void look_when_due();
  void look_after();
  void look_at_all(std::chrono::steady_clock::time_point now);
  void look_on();
  void look_on_when_due();
  void leave_deserted_namespaces();

  Loop& loop_;
  const Log& log_;
  Settings settings_;
  Inspection::Self self_;
  std::vector<std::string> absent_;  // netdevs of the settings that are not there yet
  device::IvAllocator ivs_;
  std::unique_ptr<SecuredSockets> sockets_;
  std::optional<Devices> devices_;
  std::optional<Departures> departures_;
  std::optional<SocketWalk> walk_;
  std::optional<SocketLists> lists_;
  std::optional<Recount> recount_;
  std::optional<Inspection> inspection_;
  std::optional<netlink::Server> server_;
  std::optional<control::Clients> clients_;
  std::optional<Listeners> listeners_;
  std::optional<Events> events_;
  std::chrono::steady_clock::time_point looked_after_{};  // when the last look ended
  DutyCycle looks_{5};
  std::optional<Backoff> old_connections_;  // from before this machine was cloned, if any are left
  Loop::Source regularly_, soon_, soon_at_home_;  // it looks after what it has
  Loop::Source lists_turn_;                       // while lists are wanted
  Loop::Source look_turn_;                        // while netdevs are to be looked at
  Loop::Source expiry_turn_;                      // while there is something to let go of
  Loop::Source rotation_;
};

}  // namespace psp::host
