// SPDX-License-Identifier: Apache-2.0
//
// HostState: all that must outlive a process for its secured connections to go on, but for what the
// kernel keeps: the core's devices and associations, of each software device the keys, SPIs, Tx
// keys and counters, and where IVs go on. save takes it off running objects, restore makes others
// that go on as they would have; write and read are its form as octets.
//
// Not in it, since it is given anew: sockets, netdevs, limits and rules of the core, backends,
// clocks, random numbers, and the packets of the log. A device can be saved only if it was told to
// keep its device keys (SoftwareDriverOptions::keep_device_keys).
//
// A state is restored once: of two that go on from one state each would use the IVs of the other,
// under the same keys.
//
// Threading: the control thread. Engines may go on meanwhile; restore comes before there are any.
#pragma once

#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "crypto/secret.hh"
#include "device/core.hh"
#include "device/keys/iv_allocator.hh"
#include "device/saved.hh"
#include "device/software_device.hh"

namespace psp::device {

struct HostState {
  std::uint64_t next_iv = 0;
  CoreState core;
  std::vector<DeviceState> devices;  // of the registered records, in their order
};

// DeviceOf is the software device behind a registered device, or null.
using DeviceOf = std::function<const SoftwareDevice*(std::uint16_t id)>;

CoreState save(const Core& core);
// Errors: a sentence; the device keys are not kept.
std::expected<DeviceState, std::string> save(const SoftwareDevice& device);
std::expected<HostState, std::string> save(const Core& core, const IvAllocator& ivs,
                                           const DeviceOf& device_of);

// DriverOf is the driver of a device that was registered; it outlives the core.
using DriverOf = std::function<Driver*(std::uint16_t id)>;

// restore makes a core of a state that read or save has given. Nobody is notified, no netdev is
// attached: those who attach know what there is. Errors: a sentence; what is not consistent, or a
// device without driver.
std::expected<std::unique_ptr<Core>, std::string> restore(const CoreState& state,
                                                          SocketOps& sockets, NetdevOps* netdevs,
                                                          const CoreOptions& options,
                                                          const DriverOf& driver_of);
// `options` as for a new device; its phase, generation and versions are the state's.
std::expected<std::unique_ptr<SoftwareDevice>, std::string> restore(const DeviceState& state,
                                                                    SoftwareDriverOptions options);

// problem_of says what is not consistent in a state, if anything.
std::string problem_of(const CoreState& state);
std::string problem_of(const DeviceState& state);

// write gives the octets of a state: a header with version, size and a checksum, then the structs.
crypto::WipedVector write(const HostState& state);
// read takes them back. Errors: a sentence: another version or size, octets that were changed by
// accident, what is not consistent. (Who changes them on purpose has the keys anyway.)
std::expected<HostState, std::string> read(std::span<const std::uint8_t> octets);

}  // namespace psp::device
