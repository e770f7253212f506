// SPDX-License-Identifier: Apache-2.0
//
// The software engine: PSP whose hardware is the processor. A SoftwareDriver is what a device is in
// one network namespace: device keys, SPIs and Tx keys that no other namespace shares. One control
// object, any number of worker engines that seal and open packets. SoftwareDevice (see there) is
// the Driver of a whole device.
//
// Threading: SoftwareDriver belongs to the control thread. Each Engine belongs to one worker
// thread; what they share is described in engine.hh.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "crypto/aead.hh"
#include "device/driver.hh"
#include "device/engine.hh"
#include "device/keys/iv_allocator.hh"
#include "device/packet_log.hh"
#include "device/saved.hh"
#include "wire/drop.hh"

namespace psp::device {

// SoftwareDriverOptions: what a software driver is made of.
struct SoftwareDriverOptions {
  const crypto::Backend* backend = nullptr;
  IvAllocator* ivs = nullptr;
  std::function<void(std::span<std::uint8_t>)> random = crypto::random_bytes;
  // rx_cache_entries: derived Rx keys that each worker remembers. 0: derive for every packet.
  // Both sizes are rounded up to a power of two; of Tx keys at least one is remembered.
  std::size_t rx_cache_entries = 256;
  std::size_t tx_cache_entries = 256;
  std::uint32_t spis_of_a_key = Spi::kIndexMask;  // less: for tests
  // now_ns is the time of the packet log, since 1970.
  std::function<std::uint64_t()> now_ns = [] { return std::uint64_t{0}; };
  // Of the first device key.
  unsigned phase = 0;
  std::uint8_t generation = 0;
  VersionSet enabled{};  // for reception
  // packet_numbers counts what the packet log took; logs that share it have no number twice. None:
  // one of its own.
  std::shared_ptr<std::atomic<std::uint64_t>> packet_numbers{};
  bool keep_device_keys = false;  // so that they can be saved
};

// SavedPart is a driver within the state of its device.
struct SavedPart {
  const SavedDriver& driver;
  std::span<const SavedSlot> slots;
  std::span<const std::uint32_t> free;
};

class SoftwareDriver {
 public:
  explicit SoftwareDriver(SoftwareDriverOptions options);
  // One that goes on where another stopped; phase, generation and versions are the saved ones.
  SoftwareDriver(SoftwareDriverOptions options, const SavedPart& saved);
  ~SoftwareDriver();
  SoftwareDriver(const SoftwareDriver&) = delete;
  SoftwareDriver& operator=(const SoftwareDriver&) = delete;

  // As those of Driver, in this one namespace.
  void enable(VersionSet versions);
  std::uint8_t key_rotate(std::uint8_t proposed);
  Result<RxKey> rx_spi_alloc(Version version);
  void rx_spi_unused(Spi spi);
  Result<std::uint32_t> tx_key_add(Version version, Spi spi, std::span<const std::uint8_t> key);
  void tx_key_del(std::uint32_t handle);
  DriverStats get_stats() const;

  // save appends what it has to the state of its device. False: the device keys are not kept.
  [[nodiscard]] bool save(std::uint64_t netns, DeviceState& state) const;

  // set_clear_boundary notes where the clear octets of a socket's stream end (see TxSession).
  void set_clear_boundary(std::uint32_t handle, std::uint32_t sequence);

  // make_engine: for one worker. The driver outlives its engines.
  std::unique_ptr<Engine> make_engine();

  // rx_key_of is the Rx key under which the PSP datagram (UDP payload) is authentic, tx_key_of the
  // Tx key of that handle if the datagram is authentic under it. Nothing: it is not. Who asks must
  // have been found to be allowed to: these are not for the packet path and count nothing.
  std::optional<crypto::SaKey> rx_key_of(std::span<const std::uint8_t> datagram) const;
  std::optional<crypto::SaKey> tx_key_of(std::uint32_t handle,
                                         std::span<const std::uint8_t> datagram) const;

  // drops returns how often each Drop happened in this driver's engines, by number.
  std::array<std::uint64_t, PSP_DROP_MAX> drops() const;

  // packets are those in the log, oldest first.
  std::vector<LoggedPacket> packets() const;

  // spi_remaining is how many SPIs are left under the active device key.
  std::uint64_t spi_remaining() const;

  // rx_state_octets is the memory that reception depends on, in octets: device keys and the caches
  // of all engines. Does not grow with connections. Not in it: what the crypto backend keeps inside
  // its objects, whose number is as fixed.
  std::size_t rx_state_octets() const;

 private:
  friend class Engine;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace psp::device
