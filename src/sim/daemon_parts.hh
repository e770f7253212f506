// SPDX-License-Identifier: Apache-2.0
//
// Parts of a Daemon: the device as the core drives it, and the way of finished frames to the TAP.
// For daemon.cc and daemon_start.cc.
//
// Keys, SPIs and statistics are the real SoftwareDevice's. What is added is that the programs hear
// of a change after the software has it, as kernel::HostDevice does: a packet between the two must
// find a key that the workers know.
#pragma once

#include "datapath/frame.hh"
#include "wire/constants.h"

#include "daemon.hh"

namespace psp::sim {

// Device is kernel::HostDevice with one attachment: the software first, then the programs.
class Daemon::Device final : public device::Driver {
 public:
  Device(Daemon& daemon, device::SoftwareDriverOptions options)
      : daemon_(daemon), software(std::move(options)) {}
  device::Result<void> set_config(const device::DeviceConfig& current,
                                  const device::DeviceConfig& next) override {
    auto done = software.set_config(current, next);
    daemon_.versions_ = next.versions_ena;
    daemon_.set_config();
    return done;
  }
  device::Result<std::uint8_t> key_rotate(std::uint8_t proposed) override {
    auto done = software.key_rotate(proposed);
    ++daemon_.rotations_;
    ++daemon_.rotations_done_;
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
  device::Result<device::DriverStats> get_stats() override { return software.get_stats(); }

 private:
  Daemon& daemon_;

 public:
  device::SoftwareDevice software;
};

// psp_datagrams is how many a frame of the TAP has, if they are PSP's.
inline std::uint64_t psp_datagrams(std::span<const std::uint8_t> frame) {
  const auto vnet = datapath::load_vnet(frame.data());
  const auto ip = frame.subspan(datapath::kVnetHeader + kEthernet);
  if (!is_psp(ip)) return 0;
  if (vnet.gso_type != datapath::kGsoUdpL4 || vnet.gso_size == 0) return 1;
  const std::size_t payload = ip.size() - ((ip[0] >> 4) == 4 ? 20 : 40) - PSP_UDP_HEADER;
  return (payload + vnet.gso_size - 1) / vnet.gso_size;
}

class Daemon::TapSink final : public datapath::Sink {
 public:
  explicit TapSink(Daemon& daemon) : daemon_(daemon) {}
  bool write(std::span<const iovec> parts) override {
    Octets frame;
    for (const iovec& part : parts) {
      const auto* octets = static_cast<const std::uint8_t*>(part.iov_base);
      frame.insert(frame.end(), octets, octets + part.iov_len);
    }
    daemon_.sealed_ += psp_datagrams(frame);
    return daemon_.machine_.kernel.write_tap(daemon_.tap_, std::move(frame));
  }

 private:
  Daemon& daemon_;
};

}  // namespace psp::sim
