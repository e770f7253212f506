// SPDX-License-Identifier: Apache-2.0
//
// Daemon: what pspd does between start and stop. It owns one of each part and the order in which
// they come and go; the parts themselves are in the layers.
//
// Threading: the control thread. Workers run inside the devices.
#pragma once

#include <cstdint>
#include <deque>
#include <expected>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <psp/device/core.hh>
#include <psp/netlink/server.hh>

#include "control_socket.hh"
#include "event_loop.hh"
#include "host_device.hh"
#include "options.hh"
#include "programs.hh"
#include "sock_diag.hh"
#include "sockets.hh"

namespace psp {

class Daemon final : private netlink::Inspector {
 public:
  // start brings everything up, in an order in which a failure leaves nothing behind. Errors: a
  // sentence that says what is missing and how to get it.
  static std::expected<std::unique_ptr<Daemon>, std::string> start(const Options& options);
  ~Daemon() override;

  // run serves until SIGTERM or SIGINT, then puts the host back. Returns the exit code.
  int run();

 private:
  explicit Daemon(const Options& options);
  std::expected<void, std::string> bring_up();
  std::expected<void, std::string> add_device(const std::string& name);
  void watch();
  int shut_down();

  void on_destroyed();
  void depart(std::uint64_t cookie);
  void resynchronise();
  void bury();
  void on_links();
  void check_devices();
  void rotate();
  datapath::HostDevice* device_by_id(std::uint16_t id);

  std::vector<AssocInfo> associations() override;
  DaemonInfo daemon_info() override;

  Options options_;
  const crypto::Backend* backend_ = nullptr;
  EventLoop loop_;
  datapath::Secrets secrets_;
  device::IvAllocator ivs_;
  datapath::HostDeviceOptions device_options_;
  std::vector<UniqueFd> locks_;  // one a netdev: no second pspd on it
  std::optional<datapath::SocketPrograms> programs_;
  std::unique_ptr<datapath::KernelSockets> sockets_;
  std::unique_ptr<device::Core> core_;
  std::unique_ptr<netlink::Server> server_;
  std::vector<std::unique_ptr<datapath::HostDevice>> devices_;
  std::optional<datapath::DestroyEvents> destroyed_;
  UniqueFd links_;
  std::unique_ptr<ControlSocket> control_;
  std::vector<EventLoop::Source> sources_;

  // Departed connections keep their Tx key while TIME_WAIT may still have to answer with it.
  struct Departed {
    std::chrono::steady_clock::time_point until;
    std::uint64_t cookie;
  };
  std::deque<Departed> departed_;
};

// clean_up removes what a killed pspd left on the devices of `options`. Returns the exit code.
int clean_up(const Options& options);

}  // namespace psp
