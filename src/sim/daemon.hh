// SPDX-License-Identifier: Apache-2.0
//
// Daemon: one life of pspd over a modelled kernel. Real are the core, the device and its engine,
// TxPath and RxPath, kernel::KernelSockets and host::Departures. Modelled is what puts them
// together and talks to the kernel: the order of host/host.cc and kernel/attachment.cc at a start
// and a stop, the takeover of what a dead one has left, the look after the programs each second.
// Each step of a start is an event of its own, so that a crash can come between any two.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "datapath/rx_path.hh"
#include "datapath/tx_path.hh"
#include "device/core.hh"
#include "device/software_device.hh"
#include "host/departures.hh"
#include "kernel/programs.hh"
#include "kernel/sockets.hh"

#include "kernel.hh"
#include "process.hh"

namespace psp::sim {

// Machine is what of a host outlives its pspds.
struct Machine {
  Machine(Schedule& time, Random source, const KernelOptions& options,
          std::function<void(Octets)> wire)
      : schedule(time), kernel(time, source.fork(), options, std::move(wire)), random(source) {}
  Schedule& schedule;
  Kernel kernel;
  Random random;
  std::set<std::uint64_t> living;  // epochs whose lock is held
  std::uint64_t clock_offset = 0;  // of the boot clock, in ns: it can jump ahead
  std::size_t max_secured = 64;
  device::Compat compat = device::Compat::kLinux72;
  std::uint64_t boot_ps() const { return (schedule.now() + clock_offset) * 1000; }
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
  bool failed() const { return failed_; }
  void freeze(bool on);

  // What clients ask for. Nothing while it does not serve.
  device::Result<device::RxAssocReply> rx_assoc(const std::shared_ptr<Tcp>& socket,
                                                Version version);
  device::Result<void> tx_assoc(const std::shared_ptr<Tcp>& socket, Version version, Spi spi,
                                std::span<const std::uint8_t> key);
  void rotate();
  void enable(VersionSet versions);
  // stop is a clean one: it says when to go on; nothing: it has stopped, or leaves all in place.
  std::optional<Time> stop();

  // Identity is by what this one and what is its own are known. tap, device: 0 before it has one.
  struct Identity {
    unsigned life;
    std::uint64_t epoch;
    std::uint16_t verified;  // the proof on packets that it has opened
    std::uint32_t tap;
    std::uint16_t device;
  };
  Identity identity() const { return {life_, secrets_.epoch, secrets_.verified, tap_, id_}; }
  std::uint32_t rotations() const { return rotations_; }
  VersionSet versions() const { return versions_; }
  std::size_t associations() const { return core_ ? core_->associations().size() : 0; }
  bool stopping() const { return stop_ != Stop::kNot; }
  bool left_in_place() const { return left_in_place_; }
  device::DriverStats stats() const;
  const psp_sock* state_of(const Tcp& socket) const;
  const Object& object() const { return *sockets_object_; }

 private:
  class Device;
  class TapSink;

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
  void on_frame();
  void work();
  void tick();
  void look_after();
  void guard(std::uint32_t ifindex, const kernel::FirstPrograms& programs);
  void remove_netdev_programs(std::uint64_t epoch);
  void remove_cgroup_programs(std::uint64_t epoch);
  std::vector<std::shared_ptr<Object>> dead_objects() const;
  void put_first(std::vector<Program>& list, const Program& program);
  void set_config();

  Machine& machine_;
  const unsigned life_;
  kernel::Secrets secrets_;
  unsigned next_ = 0;  // step of the start
  bool serving_ = false, frozen_ = false, failed_ = false, stopped_ = false;
  enum class Stop { kNot, kEnding, kDrained, kOffNetdev } stop_ = Stop::kNot;
  bool left_in_place_ = false, working_ = false, pending_work_ = false;
  bool ticking_ = false, missed_ = false;
  std::vector<std::uint64_t> gone_;  // sockets, not yet heard of
  int patience_ = 10;
  std::shared_ptr<bool> alive_;  // of this object, for events that come later
  Process process_;
  std::shared_ptr<Object> sockets_object_, netdev_object_;
  std::vector<std::shared_ptr<Object>> dead_;
  std::size_t dead_unseen_ = 0;
  std::optional<kernel::SocketPrograms> programs_;
  std::optional<kernel::NetnsTable> namespaces_;
  std::optional<kernel::KernelSockets> operations_;
  device::IvAllocator ivs_;
  std::optional<device::Core> core_;
  std::unique_ptr<Device> device_;
  std::optional<host::Departures> departures_;
  std::unique_ptr<device::Engine> engine_;
  std::unique_ptr<TapSink> sink_;
  std::unique_ptr<datapath::TxPath> tx_;
  std::unique_ptr<datapath::RxPath> rx_;
  Program out_, in_, tap_in_, tap_out_;
  std::uint32_t tap_ = 0;
  std::uint16_t id_ = 0;
  std::uint32_t rotations_ = 0;
  VersionSet versions_{};
  device::DriverStats stats_before_{};  // of devices that have gone
};

}  // namespace psp::sim
