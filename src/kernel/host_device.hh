// SPDX-License-Identifier: Apache-2.0
//
// HostDevice: a PSP device in software on a netdev of this host. It is the driver that the core
// talks to, and has keys for each namespace where it has netdevs, an attachment on its main netdev,
// and one on each netdev associated with it.
//
// Threading: the control thread; the workers of the attachments have threads of their own.
#pragma once

#include <cstdint>
#include <expected>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "device/core.hh"
#include "device/software_device.hh"

#include "attachment.hh"
#include "netdev.hh"
#include "netns.hh"
#include "programs.hh"
#include "sockets.hh"

namespace psp::kernel {

// HostDeviceContext is what all devices of a pspd share; it outlives them.
struct HostDeviceContext {
  const Secrets& secrets;
  const SocketPrograms& programs;
  const NetnsTable& namespaces;
  KernelSockets& sockets;
  device::Core& core;
};

class HostDevice final : private device::Driver {
 public:
  // attach gives the netdev, one of the home namespace, a PSP device and registers it with the
  // core. What a killed pspd left on the netdev is taken over: its sockets must be gone (see
  // end_secured_sockets). Errors: a sentence; nothing is left behind then.
  static std::expected<std::unique_ptr<HostDevice>, std::string> attach(
      const HostDeviceContext& context, const Netdev& netdev, UniqueFd lock,
      const HostDeviceOptions& options);

  // The device is not registered any more (Core::remove_device), or else is now. Without detach()
  // the programs stay, and with them the block on secured sockets.
  ~HostDevice() override;
  HostDevice(const HostDevice&) = delete;
  HostDevice& operator=(const HostDevice&) = delete;

  // silence: no socket sends by its netdevs any more.
  void silence();
  // detach takes the programs off all its netdevs and puts their settings back. Errors: a sentence,
  // and what is left there stays noted; resume undoes what was done.
  [[nodiscard]] std::expected<void, std::string> detach();
  [[nodiscard]] std::expected<void, std::string> resume();

  // associate lets the sockets of another netdev, in a namespace of the table, use this device.
  std::expected<void, std::string> associate(const Netdev& netdev, UniqueFd lock);
  // shares_address: what comes for that netdev would be taken at one of this device's, or the other
  // way round; whose it is can be told only when it is opened.
  bool shares_address(const Netdev& netdev) const;
  // disassociate ends that: programs and TAP go from the netdev, its secured sockets are blocked.
  // Errors: a sentence; all is as before then. abandon does so whatever is left there.
  [[nodiscard]] std::expected<void, std::string> disassociate(device::NetdevKey netdev);
  [[nodiscard]] std::expected<void, std::string> abandon(device::NetdevKey netdev);

  std::uint16_t id() const { return id_; }
  Attachment& main() { return *main_; }
  const Netdev& netdev() const { return main_->netdev(); }
  const Tap& tap() const { return main_->tap(); }
  using Associated = std::map<device::NetdevKey, std::unique_ptr<Attachment>>;
  const Associated& associated() const { return associated_; }
  const device::SoftwareDevice& driver() const { return software_; }
  DropCounts drops() const;     // of the programs and the engines
  Condition condition() const;  // of all its attachments

 private:
  HostDevice(const HostDeviceContext& context, const HostDeviceOptions& options);
  std::expected<void, std::string> start();
  std::expected<std::unique_ptr<Attachment>, std::string> attach_there(const Netns& netns,
                                                                       const Netdev& netdev,
                                                                       UniqueFd lock);
  template <typename Call>
  void for_each_attachment(Call call) const;
  // try_each calls all; the sentences of those that failed are one.
  template <typename Call>
  std::expected<void, std::string> try_each(Call call) const;

  device::Result<void> set_config(const device::DeviceConfig& current,
                                  const device::DeviceConfig& next) override;
  device::Result<std::uint8_t> key_rotate(std::uint8_t proposed) override;
  device::Result<device::RxKey> rx_spi_alloc(std::uint64_t netns, Version version) override {
    return software_.rx_spi_alloc(netns, version);
  }
  void rx_spi_unused(std::uint64_t netns, Spi spi) override { software_.rx_spi_unused(netns, spi); }
  device::Result<std::uint32_t> tx_key_add(std::uint64_t netns, Version version, Spi spi,
                                           std::span<const std::uint8_t> key) override {
    return software_.tx_key_add(netns, version, spi, key);
  }
  void tx_key_del(std::uint64_t netns, std::uint32_t handle) override {
    software_.tx_key_del(netns, handle);
  }
  void netns_unused(std::uint64_t netns) override;
  device::Result<device::DriverStats> get_stats() override { return software_.get_stats(); }

  HostDeviceContext context_;
  HostDeviceOptions options_;
  device::SoftwareDevice software_;
  VersionSet versions_;
  std::uint32_t rotation_ = 0;
  std::unique_ptr<Attachment> main_;
  Associated associated_;
  DropCounts drops_before_{};  // of attachments that have gone
  std::uint16_t id_ = 0;
};

}  // namespace psp::kernel
