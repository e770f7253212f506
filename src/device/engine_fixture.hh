// SPDX-License-Identifier: Apache-2.0
//
// For tests of engines: a driver with one engine, for each backend and each kind of Rx cache (none,
// one that always collides, one with room). Its packets are sealed by a peer that is not the driver
// (driver_test_support.hh). The clock of the IVs stands still, so that they are the counter's
// alone.
#pragma once

#include <algorithm>
#include <gtest/gtest.h>
#include <memory>
#include <ostream>
#include <tuple>

#include "device/software_driver.hh"

#include "driver_test_support.hh"

namespace psp::device {

inline void PrintTo(const DriverStats& s, std::ostream* os) {
  *os << "rx " << s.rx_packets << "/" << s.rx_bytes << " auth " << s.rx_auth_fail << " error "
      << s.rx_error << " bad " << s.rx_bad << " tx " << s.tx_packets << "/" << s.tx_bytes
      << " error " << s.tx_error;
}

using test::Octets;
using test::Packet;

// Parameters: backend and size of the Rx cache; 0 is the stateless receiver, 1 always collides.
class EngineTest : public testing::TestWithParam<std::tuple<const crypto::Backend*, std::size_t>> {
 protected:
  const crypto::Backend& backend() const { return *std::get<0>(GetParam()); }
  SoftwareDriverOptions options() {
    SoftwareDriverOptions o;
    o.backend = &backend();
    o.ivs = &ivs;
    o.rx_cache_entries = std::get<1>(GetParam());
    o.tx_cache_entries = 2;
    return o;
  }
  void SetUp() override { enable(VersionSet::all()); }
  void enable(VersionSet versions) { driver.enable(versions); }

  Octets seal(const RxKey& rx, const Packet& packet) const {
    return test::seal(backend(), rx.spi, rx.key.span(), packet);
  }
  RxKey alloc(Version version = Version::kAesGcm128) {
    return driver.rx_spi_alloc(version).value();
  }
  // open into a buffer of exactly the size that the contract asks for.
  std::expected<RxMeta, Drop> open(const Octets& datagram) {
    out.assign(datagram.size() >= 32 ? datagram.size() - 32 : 0, 0xee);
    return engine->open(datagram, out.data());
  }
  // not_given is an SPI of the same phase that no key of this device gave out.
  static std::uint32_t not_given(const RxKey& rx) {
    const std::uint32_t far = (rx.spi.value + 1'000'000'000u) & Spi::kIndexMask;
    return (rx.spi.value & Spi::kPhaseBit) | std::max(far, 1u);
  }
  std::expected<RxMeta, Drop> open_sealed(const RxKey& rx, const Packet& packet = {}) {
    return open(seal(rx, packet));
  }
  DriverStats stats() { return driver.get_stats(); }
  std::uint64_t dropped(Drop reason) { return driver.drops()[static_cast<std::size_t>(reason)]; }

  IvAllocator ivs{[] { return std::uint64_t{1000}; }};
  SoftwareDriver driver{options()};
  std::unique_ptr<Engine> engine{driver.make_engine()};
  Octets out;
};

}  // namespace psp::device
