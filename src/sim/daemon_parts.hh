// SPDX-License-Identifier: Apache-2.0
//
// Parts of a Daemon: the device as the core drives it, and what the core asks of the host for
// dev-assoc. For daemon.cc, daemon_start.cc and daemon_containers.cc.
//
// Keys, SPIs and statistics are the real SoftwareDevice's. What is added is that the programs hear
// of a change after the software has it, as kernel::HostDevice does: a packet between the two must
// find a key that the workers know.
#pragma once

#include <new>

#include "datapath/frame.hh"
#include "wire/constants.h"

#include "daemon.hh"

namespace psp::sim {

// Device is kernel::HostDevice: the software first, then the programs.
class Daemon::Device final : public device::Driver {
 public:
  Device(Daemon& daemon, device::SoftwareDriverOptions options)
      : daemon_(daemon), software(std::move(options)) {}
  device::Result<void> set_config(const device::DeviceConfig& current,
                                  const device::DeviceConfig& next) override {
    auto done = software.set_config(current, next);
    daemon_.versions_ = next.versions_ena;
    const ScarceMemory::Plenty plenty;  // to tell the programs takes none
    daemon_.set_config();
    return done;
  }
  device::Result<std::uint8_t> key_rotate(std::uint8_t proposed) override {
    auto done = software.key_rotate(proposed);
    ++daemon_.rotations_;
    ++daemon_.rotations_done_;
    const ScarceMemory::Plenty plenty;
    daemon_.set_config();
    return done;
  }
  device::Result<device::RxKey> rx_spi_alloc(std::uint64_t netns, Version version) override {
    return software.rx_spi_alloc(netns, version);
  }
  void rx_spi_unused(std::uint64_t netns, Spi spi) override { software.rx_spi_unused(netns, spi); }
  device::Result<std::uint32_t> tx_key_add(std::uint64_t netns, Version version, Spi spi,
                                           std::span<const std::uint8_t> key) override {
    return software.tx_key_add(netns, version, spi, key);
  }
  void tx_key_del(std::uint64_t netns, std::uint32_t handle) override {
    software.tx_key_del(netns, handle);
  }
  void netns_unused(std::uint64_t netns) override {
    if (!daemon_.box_) software.leave(netns);
  }
  device::Result<device::DriverStats> get_stats() override { return software.get_stats(); }

 private:
  Daemon& daemon_;

 public:
  device::SoftwareDevice software;
};

// Netdevs is what the core asks of host::Devices: the container's namespace and its netdev.
class Daemon::Netdevs final : public device::NetdevOps {
 public:
  static constexpr std::int32_t kBox = 1;  // as the host numbers the container's namespace

  explicit Netdevs(Daemon& daemon) : daemon_(daemon) {}
  device::Result<std::uint64_t> netns_of(std::uint64_t caller_netns, std::int32_t nsid) override;
  std::int32_t nsid_of(std::uint64_t /*caller_netns*/, std::uint64_t /*netns*/) override {
    return kBox;
  }
  device::Result<void> attach(const device::Device& /*device*/,
                              device::NetdevKey /*netdev*/) override {
    return daemon_.attach_box();
  }
  device::Result<void> detach(const device::Device& /*device*/,
                              device::NetdevKey /*netdev*/) override {
    daemon_.detach_box();
    return {};
  }
  void abandon(const device::Device& /*device*/, device::NetdevKey /*netdev*/) override {
    daemon_.detach_box();
  }

 private:
  Daemon& daemon_;
};

// inside runs product code as a turn of its loop does. False: it did not get to the end.
template <typename Work>
bool Daemon::inside(Work&& work) {
  bool done = false;
  try {
    const Process::Inside turn(process_);
    work();
    done = true;
  } catch (const std::bad_alloc&) {
    done = false;  // what was being done is given up (base/event_loop.cc)
  }
  if (process_.killed()) die();
  return done && !process_.killed();
}

template <typename Call>
void Daemon::for_each_attachment(Call call) const {
  for (const auto* attachment : {&main_, &box_})
    if (*attachment) call(**attachment);
}

}  // namespace psp::sim
