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
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <psp/device/core.hh>
#include <psp/netlink/server.hh>

#include "control_socket.hh"
#include "event_loop.hh"
#include "host_device.hh"
#include "netns.hh"
#include "options.hh"
#include "programs.hh"
#include "sock_diag.hh"
#include "sockets.hh"
#include "upkeep.hh"
#include "vm_fork.hh"

namespace psp {

struct Taken;

class Daemon final : private netlink::Inspector, private device::NetdevOps {
 public:
  // start brings everything up, in an order in which a failure leaves nothing behind. Errors: a
  // sentence that says what is missing and how to get it.
  // `again` reads the command line and the configuration file again, for SIGHUP.
  using Again = std::function<std::expected<Options, int>()>;
  static std::expected<std::unique_ptr<Daemon>, std::string> start(const Options& options,
                                                                   Again again);
  ~Daemon() override;

  // run serves until a signal ends it, then puts the host back. Returns the exit code.
  int run();

 private:
  Daemon(const Options& options, Again again);
  // lifecycle.cc: start and stop.
  [[nodiscard]] std::expected<void, std::string> bring_up();
  [[nodiscard]] std::expected<void, std::string> set_up();
  // Claim is a netdev of the command line that is this pspd's.
  struct Claim {
    datapath::Netdev netdev;
    UniqueFd lock;
  };
  std::expected<std::vector<Claim>, std::string> claim_netdevs();
  [[nodiscard]] std::expected<void, std::string> attach_programs(const std::vector<Claim>& claims);
  std::vector<std::uint64_t> namespaces_of(const std::vector<Taken>& earlier) const;
  [[nodiscard]] std::expected<void, std::string> inherit();
  std::expected<std::uint16_t, std::string> add_device(const datapath::Netdev& netdev,
                                                       UniqueFd lock);
  std::expected<void, std::string> listen_at_home();
  int shut_down();
  std::expected<std::size_t, std::string> end_connections() const;
  [[nodiscard]] bool end_devices(bool clean);

  // reload.cc: a configuration that changes.
  void reload();
  void apply(const Options& next);
  void rename_wanted(const std::set<std::string>& names);
  void end_device(std::uint16_t id);
  [[nodiscard]] bool rotate_every(std::chrono::seconds interval);
  std::expected<std::uint16_t, std::string> add_later(const std::string& name);

  [[nodiscard]] std::expected<void, std::string> watch();
  void on_signal(int signal);
  [[nodiscard]] std::expected<void, std::string> watch_links();
  void on_destroyed();
  void on_vm_fork();
  void rest(EventLoop::Source& source);
  void depart(std::uint64_t cookie);
  void resynchronise();
  void bury();
  std::expected<std::vector<datapath::SecuredSocket>, std::string> all_sockets() const;
  void on_links();
  void check_devices();
  void check_associated();
  void check_namespaces();
  void heal(datapath::Attachment& attachment);
  void retire(std::uint16_t id);
  void find_wanted();
  void rotate();
  datapath::HostDevice* device_by_id(std::uint16_t id);

  // daemon_netns.cc: other namespaces.
  device::Result<std::uint64_t> netns_of(std::uint64_t caller_netns, std::int32_t nsid) override;
  std::int32_t nsid_of(std::uint64_t caller_netns, std::uint64_t netns) override;
  device::Result<void> attach(const device::Device& device, device::NetdevKey netdev) override;
  void detach(const device::Device& device, device::NetdevKey netdev) override;
  void welcome(const datapath::HostDevice& host, const datapath::Netdev& netdev,
               const std::vector<Taken>& earlier);
  void listen_in(const datapath::Netns& netns);
  bool is_deserted(const datapath::Netns& netns) const;
  void leave(std::uint64_t netns);
  std::vector<device::NetdevKey> associated_netdevs() const;

  std::vector<AssocInfo> associations() override;
  DaemonInfo daemon_info() override;
  std::vector<KeptPacket> kept_packets() override;
  device::Result<CapturedKey> captured_key(const netlink::Caller& caller,
                                           std::span<const std::uint8_t> datagram) override;
  std::uint64_t home_netns() override { return namespaces_->home().cookie(); }

  Options options_;
  Again again_;
  const crypto::Backend* backend_ = nullptr;
  EventLoop loop_;
  datapath::Secrets secrets_;
  UniqueFd alive_;              // the lock that says so
  std::uint64_t instance_ = 0;  // random: by it clients know one run of pspd from another
  device::IvAllocator ivs_;
  datapath::HostDeviceOptions device_options_;
  std::optional<datapath::NetnsTable> namespaces_;  // home, and those with associated netdevs
  std::optional<datapath::SocketPrograms> programs_;
  datapath::Upkeep of_programs_;
  std::unique_ptr<datapath::KernelSockets> sockets_;
  std::unique_ptr<device::Core> core_;
  std::unique_ptr<netlink::Server> server_;
  std::vector<std::unique_ptr<datapath::HostDevice>> devices_;
  std::optional<datapath::DestroyEvents> destroyed_;
  std::optional<datapath::VmForkEvents> vm_forks_;
  UniqueFd links_;
  std::unique_ptr<ControlSocket> control_;
  std::map<std::uint64_t, std::unique_ptr<ControlSocket>> listeners_;  // in other namespaces
  std::vector<EventLoop::Source> sources_;
  std::chrono::steady_clock::time_point checked_{};
  EventLoop::Source check_later_;
  EventLoop::Source rotation_;
  EventLoop::Source closes_, link_events_;  // they rest after a burst, until
  EventLoop::Source rest_;                  // this
  bool keep_programs_ = false;              // at a stop that has to leave sockets blocked

  // Wanted is a netdev of the options and the device it has (0: none).
  struct Wanted {
    std::string name;
    std::uint16_t device = 0;
    datapath::Upkeep upkeep{};
  };
  std::vector<Wanted> wanted_;

  // FIN_WAIT2 without its full socket and TIME_WAIT last 60 seconds each in Linux.
  static constexpr std::chrono::seconds kTimeWait{125};
  // Departed connections keep their Tx key while TIME_WAIT may still have to answer with it.
  struct Departed {
    std::chrono::steady_clock::time_point until;
    std::uint64_t cookie;
  };
  std::deque<Departed> departed_;
  std::deque<std::uint64_t> unseen_;  // cookies of an earlier pspd's sockets that are still open
};

}  // namespace psp
