// SPDX-License-Identifier: Apache-2.0
//
// The driver interface: what a PSP device must do, with the contract of the kernel's psp_dev_ops.
// The software engine is one driver; tests use one that fails on demand. The core has checked a
// request before it comes here, and undoes with tx_key_del what it then cannot finish. What packets
// need (opening, sealing) is not part of it: the core never sees one.
#pragma once

#include <cstdint>

#include "crypto/secret.hh"
#include "device/error.hh"
#include "wire/types.hh"

namespace psp::device {

// kGenerationMask: a generation has 7 bits.
inline constexpr std::uint8_t kGenerationMask = 0x7f;

struct DeviceConfig {
  VersionSet versions_ena;  // receive only; transmit never looks at it
  friend bool operator==(const DeviceConfig&, const DeviceConfig&) = default;
};

// RxKey is what rx_spi_alloc hands out, for the peer to use as its Tx key.
struct RxKey {
  Spi spi;
  crypto::SaKey key;
};

// DriverStats are the eight counters of the PSP specification (docs/protocol.md, section 8). Units:
// packets, octets.
struct DriverStats {
  std::uint64_t rx_packets = 0, rx_bytes = 0, rx_auth_fail = 0, rx_error = 0, rx_bad = 0;
  std::uint64_t tx_packets = 0, tx_bytes = 0, tx_error = 0;
  friend bool operator==(const DriverStats&, const DriverStats&) = default;
  DriverStats& operator+=(const DriverStats& other);
};

// Driver is one PSP device as seen by the core. Keys belong to a network namespace, that of the
// sockets that they are for, named by its cookie: what was handed out in one means nothing in
// another. The core asks only for namespaces where the device has a netdev. Thread: the control
// thread only.
class Driver {
 public:
  virtual ~Driver() = default;

  // set_config applies `next`; the core stores it only on success and calls only on a change.
  virtual Result<void> set_config(const DeviceConfig& current, const DeviceConfig& next) = 0;

  // key_rotate makes a new device key active and destroys the one before the previous.
  // `proposed` is the next generation; the driver returns the one it took (at most 0x7f).
  virtual Result<std::uint8_t> key_rotate(std::uint8_t proposed) = 0;

  // rx_spi_alloc returns an SPI never handed out in that namespace under the active device key,
  // and its key. Errors: ENOSPC "SPI space exhausted".
  virtual Result<RxKey> rx_spi_alloc(std::uint64_t netns, Version version) = 0;
  // rx_spi_unused tells that nobody has seen the key of the SPI that was handed out last. It may be
  // handed out again, so that requests which are refused do not use up all there are.
  virtual void rx_spi_unused(std::uint64_t /*netns*/, Spi /*spi*/) {}

  // tx_key_add stores a Tx key and returns the driver's handle for it in that namespace; tx_key_del
  // forgets it.
  virtual Result<std::uint32_t> tx_key_add(std::uint64_t netns, Version version, Spi spi,
                                           std::span<const std::uint8_t> key) = 0;
  virtual void tx_key_del(std::uint64_t netns, std::uint32_t handle) = 0;

  // netns_unused tells that the device has neither netdev nor association in a namespace any more:
  // the keys there can go.
  virtual void netns_unused(std::uint64_t /*netns*/) {}

  virtual Result<DriverStats> get_stats() = 0;
};

}  // namespace psp::device
