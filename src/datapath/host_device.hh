// SPDX-License-Identifier: Apache-2.0
//
// HostDevice: a netdev that has got a PSP device. It joins what the other files of this layer do:
// the TAP, the programs, the workers, and the software driver that the core talks to.
//
// Threading: the control thread; the workers it owns have threads of their own.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <string>
#include <vector>

#include <psp/device/core.hh>
#include <psp/device/software_driver.hh>

#include "netdev.hh"
#include "programs.hh"
#include "sockets.hh"
#include "tap.hh"
#include "worker.hh"

namespace psp::datapath {

struct HostDeviceOptions {
  device::SoftwareDriverOptions driver;
  TxOptions tx;
  unsigned workers = 1;  // TAP queues, each with a thread
  std::uint32_t busy_poll_us = 0;
};

// HostDeviceContext is what all devices of a pspd share; it outlives them.
struct HostDeviceContext {
  const Secrets& secrets;
  const SocketPrograms& programs;
  KernelSockets& sockets;
  device::Core& core;
};

class HostDevice final : private device::Driver {
 public:
  // attach gives the netdev a PSP device and registers it with the core. What a killed pspd left on
  // the netdev is taken over: its sockets must be gone (see end_secured_sockets). Errors: a
  // sentence; nothing is left behind then.
  static std::expected<std::unique_ptr<HostDevice>, std::string> attach(
      const HostDeviceContext& context, const std::string& name, const HostDeviceOptions& options);

  // Unregisters the device. Without detach() the programs stay, and with them the block on secured
  // sockets.
  ~HostDevice() override;
  HostDevice(const HostDevice&) = delete;
  HostDevice& operator=(const HostDevice&) = delete;

  // detach takes the programs off the netdev and puts its settings back.
  void detach();

  // refresh takes over a new MTU or address. False: the netdev has gone.
  bool refresh();

  // failed: the TAP has gone. Nothing is sealed or opened any more.
  bool failed() const;

  // heal puts the programs back if somebody took them off. True if it had to.
  std::expected<bool, std::string> heal();

  std::uint16_t id() const { return id_; }
  const Netdev& netdev() const { return netdev_; }
  const Tap& tap() const { return tap_; }
  const device::SoftwareDriver& driver() const { return software_; }
  std::vector<std::string> notices() const { return notices_; }
  DropCounts drops() const;  // of the programs and the engines

 private:
  HostDevice(const HostDeviceContext& context, Netdev netdev, Tap tap,
             const HostDeviceOptions& options);
  std::expected<void, std::string> start(const HostDeviceOptions& options);
  void tune();

  device::Result<void> set_config(const device::DeviceConfig& current,
                                  const device::DeviceConfig& next) override;
  device::Result<std::uint8_t> key_rotate(std::uint8_t proposed) override {
    return software_.key_rotate(proposed);
  }
  device::Result<device::RxKey> rx_spi_alloc(Version version) override {
    return software_.rx_spi_alloc(version);
  }
  device::Result<std::uint32_t> tx_key_add(Version version, Spi spi,
                                           std::span<const std::uint8_t> key) override {
    return software_.tx_key_add(version, spi, key);
  }
  void tx_key_del(std::uint32_t handle) override { software_.tx_key_del(handle); }
  device::Result<device::DriverStats> get_stats() override { return software_.get_stats(); }

  HostDeviceContext context_;
  Netdev netdev_;
  Tap tap_;
  device::SoftwareDriver software_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::optional<NetdevPrograms> programs_;
  std::vector<std::string> notices_;
  std::uint16_t id_ = 0;
};

// end_secured_sockets aborts every socket of `assoc_map` that has a Tx key: without its pspd it
// could only go on in clear. Returns how many could not be ended (a kernel without
// CONFIG_INET_DIAG_DESTROY), or a sentence.
std::expected<std::size_t, std::string> end_secured_sockets(int assoc_map);

}  // namespace psp::datapath
