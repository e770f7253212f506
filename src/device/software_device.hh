// SPDX-License-Identifier: Apache-2.0
//
// SoftwareDevice: a PSP device in software, as the core sees it. As the virtual functions of a NIC,
// it has keys of its own for each network namespace that has a part in it: a SoftwareDriver. So a
// packet that was sealed for one namespace does not authenticate in another, and a Tx handle of one
// means nothing in another, whoever is root there and whatever he sends.
//
// Threading: the control thread; the engines of its drivers belong to workers.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "device/software_driver.hh"

namespace psp::device {

// Namespaces are named by their cookies.
class SoftwareDevice final : public Driver {
 public:
  // `options` are those of every driver but for what a device gives it to begin with.
  explicit SoftwareDevice(SoftwareDriverOptions options);
  // One that goes on where another stopped; for restore (snapshot.hh), which looks at the state
  // first.
  SoftwareDevice(SoftwareDriverOptions options, const DeviceState& state);
  // save: nothing if the device keys are not kept.
  std::optional<DeviceState> save() const;

  // join gives a namespace its driver, with new keys, in step with the device: phase, generation,
  // enabled versions. One that has it keeps it. The driver stays where it is until leave.
  SoftwareDriver& join(std::uint64_t netns);
  // leave wipes the keys of a namespace; what its driver has counted still counts. Its engines must
  // have gone.
  void leave(std::uint64_t netns);
  bool has(std::uint64_t netns) const { return drivers_.contains(netns); }

  // All drivers change together. For a namespace without driver, rx_spi_alloc and tx_key_add are
  // EOPNOTSUPP.
  Result<void> set_config(const DeviceConfig& current, const DeviceConfig& next) override;
  Result<std::uint8_t> key_rotate(std::uint8_t proposed) override;
  Result<RxKey> rx_spi_alloc(std::uint64_t netns, Version version) override;
  void rx_spi_unused(std::uint64_t netns, Spi spi) override;
  Result<std::uint32_t> tx_key_add(std::uint64_t netns, Version version, Spi spi,
                                   std::span<const std::uint8_t> key) override;
  void tx_key_del(std::uint64_t netns, std::uint32_t handle) override;
  // netns_unused is for whoever knows of the engines: it calls leave when they have gone.
  Result<DriverStats> get_stats() override;  // of all drivers that there are and were

  // As those of SoftwareDriver, in that namespace; nothing where there is no driver.
  void set_clear_boundary(std::uint64_t netns, std::uint32_t handle, std::uint32_t sequence);
  std::optional<crypto::SaKey> rx_key_of(std::uint64_t netns,
                                         std::span<const std::uint8_t> datagram) const;
  std::optional<crypto::SaKey> tx_key_of(std::uint64_t netns, std::uint32_t handle,
                                         std::span<const std::uint8_t> datagram) const;

  // drops are those of all drivers that there are and were, packets those in all their logs.
  std::array<std::uint64_t, PSP_DROP_MAX> drops() const;
  std::vector<LoggedPacket> packets() const;
  // spi_remaining is the least that a namespace has left: a rotation gives all of them new ones.
  std::uint64_t spi_remaining() const;

 private:
  SoftwareDriver* find(std::uint64_t netns);
  const SoftwareDriver* find(std::uint64_t netns) const;

  SoftwareDriverOptions options_;  // of the next driver
  std::map<std::uint64_t, SoftwareDriver> drivers_;
  // Of drivers that have gone.
  DriverStats stats_before_{};
  std::array<std::uint64_t, PSP_DROP_MAX> drops_before_{};
};

}  // namespace psp::device
