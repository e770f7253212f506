// SPDX-License-Identifier: Apache-2.0
//
// Daemon: one life of pspd over a modelled kernel. Real are the netlink server, the core, the
// device and its engine, TxPath and RxPath, kernel::KernelSockets and host::Departures. Modelled is
// what puts them together and talks to the kernel: the order of host/host.cc and
// kernel/attachment.cc at a start and a stop, the takeover of what a dead one has left, the look
// after the programs each second. Each step of a start is an event of its own, so that a crash can
// come between any two. A container uses the device by dev-assoc (daemon_containers.cc).
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "device/core.hh"
#include "device/software_device.hh"
#include "host/departures.hh"
#include "kernel/programs.hh"
#include "kernel/sockets.hh"

#include "asking.hh"
#include "attachment.hh"
#include "kernel.hh"
#include "process.hh"

namespace psp::sim {

// Machine is what of a host outlives its pspds.
struct Machine {
  // `carrier` is the netdev that the container's lies on.
  Machine(Schedule& time, Random source, const KernelOptions& options,
          const KernelOptions& box_options, std::uint32_t carrier, const Kernel::Wire& wire)
      : schedule(time),
        kernel(time, source.fork(), options, common, wire),
        box(time, source.fork(), box_options, common, wire),
        random(source) {
    kernel.above = &box;
    kernel.carrier = carrier;
    box.below = &kernel;
  }
  Kernel& kernel_of(unsigned place) { return place < 2 ? kernel : box; }
  std::vector<std::shared_ptr<Tcp>> listed() const;  // in all namespaces

  Schedule& schedule;
  std::shared_ptr<Common> common = std::make_shared<Common>();
  Kernel kernel, box;     // the host's namespace, the container's
  bool box_ends = false;  // its processes have gone
  Random random;
  std::set<std::uint64_t> living;  // epochs whose lock is held
  std::size_t max_secured = 64;
  bool udp_checksum = true;
  device::Compat compat = device::Compat::kLinux72;
  CallFaults faults;               // what pspd's calls meet with
  std::function<void()> on_death;  // a pspd was killed in the middle of what it did
  std::uint64_t boot_ps() const { return (schedule.now() + common->clock_offset) * 1000; }
};

class Daemon {
 public:
  Daemon(Machine& machine, unsigned life);
  ~Daemon();  // a crash, unless it has stopped
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  // step does the next step of the start; false: there was none, it serves.
  bool step();
  bool serving() const { return serving_; }
  void freeze(bool on);

  // What clients ask for, as octets. ENOTCONN: it does not serve. ECONNRESET: the answer did not
  // come, and it may have been done or not.
  using OfDevice = Asking::OfDevice;
  ClientResult<RxAssocInfo> rx_assoc(const std::shared_ptr<Tcp>& socket, OfDevice device,
                                     Version version);
  ClientResult<void> tx_assoc(const std::shared_ptr<Tcp>& socket, OfDevice device, Version version,
                              Spi spi, std::span<const std::uint8_t> key);
  void rotate();
  void enable(VersionSet versions);
  // associate is dev-assoc of the container's netdev, of which so many steps are done before
  // something happens to pspd; kAll: nothing does. disassociate is dev-disassoc.
  static constexpr unsigned kAll = 100;
  bool associate(unsigned steps = kAll);
  void disassociate();
  // attachment is that of the host's netdev or its container's; null: it has none.
  const Attachment* attachment(bool boxed) const { return (boxed ? box_ : main_).get(); }
  // stop is a clean one: it says when to go on; nothing: it has stopped, or leaves all in place.
  std::optional<Time> stop();

  // Identity is by what this one and what is its own are known. device: 0 before it has one.
  struct Identity {
    unsigned life;
    std::uint64_t epoch;
    std::uint16_t verified;  // the proof on packets that it has opened
    std::uint16_t device;
    std::uint32_t rotations;  // of that device
  };
  Identity identity() const { return {life_, secrets_.epoch, secrets_.verified, id_, rotations_}; }
  VersionSet versions() const { return versions_; }
  // holds_box: it keeps the container's namespace from its end.
  bool holds_box() const {
    return namespaces_ && namespaces_->contains(machine_.box.options().netns);
  }
  bool left_in_place() const { return left_in_place_; }
  // miscounted is what its counters and those of its programs have wrong, in words.
  std::optional<std::string> miscounted() const;
  const psp_sock* state_of(const Tcp& socket) const;
  const Object& object() const { return *sockets_object_; }
  std::uint64_t drops(Drop reason) const;  // by its programs
  // core is for who looks at what no request tells; while it serves.
  device::Core& core() { return *core_; }

 private:
  class Device;
  class Netdevs;

  device::DriverStats stats() const;  // of all its devices
  template <typename Work>
  bool inside(Work&& work);
  void die();
  template <typename Answer, typename Ask>
  ClientResult<Answer> serve_client(const std::shared_ptr<Tcp>& socket, Ask&& ask);
  bool stopping() const { return stop_ != Stop::kNot; }
  void take_secrets();
  void take_over();
  void load_sockets();
  void let_go();
  void make_device();
  void lose_device();
  void serve();
  std::size_t end_secured(Map& assoc, Map& noted);
  std::size_t end_secured() {  // its own
    return end_secured(*sockets_object_->maps[SHIM_ASSOC], *sockets_object_->maps[SHIM_NOTED]);
  }
  std::optional<Time> leave_in_place();
  void leave_netdev();
  void hear();
  void tick();
  void recount();
  void look_after();
  void look_at_guard(const Attachment& attachment);
  void guard(const Attachment& attachment, bool on);
  Attachment::Owner owner();
  void take_off(const Attachment& attachment);
  template <typename Call>
  void for_each_attachment(Call call) const;
  void remove_cgroup_programs(std::uint64_t epoch);
  std::vector<std::shared_ptr<Object>> dead_objects() const;
  void set_config();

  // daemon_containers.cc
  device::Result<void> attach_box();
  void detach_box();
  void look_after_box();
  void leave_box();

  Machine& machine_;
  const unsigned life_;
  kernel::Secrets secrets_;
  unsigned next_ = 0;  // step of the start
  bool serving_ = false, frozen_ = false, stopped_ = false;
  enum class Stop { kNot, kEnding, kDrained, kOffNetdev } stop_ = Stop::kNot;
  bool left_in_place_ = false;
  bool ticking_ = false, missed_ = false;
  std::vector<std::uint64_t> gone_;  // sockets, not yet heard of
  int patience_ = 10;
  std::shared_ptr<bool> alive_;  // of this object, for events that come later
  Process process_;
  std::shared_ptr<Object> sockets_object_;
  std::vector<std::shared_ptr<Object>> dead_;
  std::size_t dead_unseen_ = 0;
  std::optional<kernel::SocketPrograms> programs_;
  std::optional<kernel::NetnsTable> namespaces_;
  std::optional<kernel::KernelSockets> operations_;
  device::IvAllocator ivs_;
  std::unique_ptr<Netdevs> netdevs_;
  std::optional<device::Core> core_;
  std::optional<netlink::Server> server_;
  std::optional<Asking> asking_;
  std::unique_ptr<Device> device_;
  std::optional<host::Departures> departures_;
  std::unique_ptr<Attachment> main_, box_;
  unsigned steps_ = kAll;  // of a dev-assoc
  std::uint16_t id_ = 0;
  std::uint32_t rotations_ = 0;
  std::uint64_t rotations_done_ = 0, rotations_told_ = 0;  // of all: and to how many of the group
  VersionSet versions_{};
  device::DriverStats stats_before_{};  // of devices that have gone
  Counted counted_;
};

}  // namespace psp::sim
