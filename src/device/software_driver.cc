// SPDX-License-Identifier: Apache-2.0
//
// The control half of the software driver: the kernel's driver operations on the shared state. What
// they change, engines see by themselves at their next packet: nothing is sent to a worker and
// nothing waits for one. What only engines do is in engine.cc. save() is for a pspd that another
// one follows (snapshot.hh).
//
// Threading: the control thread; see engine.hh for what the workers see of it.
#include "device/software_driver.hh"

#include <cerrno>
#include <utility>

#include "driver_state.hh"

namespace psp::device {

SoftwareDriver::State::State(SoftwareDriverOptions given)
    : options(std::move(given)),
      packets(options.packet_numbers),
      keys({.backend = *options.backend,
            .random = options.random,
            .phase = options.phase,
            .generation = options.generation,
            .enabled = options.enabled,
            .spis_of_a_key = options.spis_of_a_key,
            .keep_keys = options.keep_device_keys}) {}

SoftwareDriver::State::State(SoftwareDriverOptions given, const SavedPart& saved)
    : options(std::move(given)),
      tx(saved.slots, saved.free),
      packets(options.packet_numbers),
      keys({.backend = *options.backend,
            .random = options.random,
            .keep_keys = options.keep_device_keys},
           saved.driver.keys) {
  stats.retire(saved.driver.totals);
}

SoftwareDriver::SoftwareDriver(SoftwareDriverOptions options)
    : state_(std::make_unique<State>(std::move(options))) {}

SoftwareDriver::SoftwareDriver(SoftwareDriverOptions options, const SavedPart& saved)
    : state_(std::make_unique<State>(std::move(options), saved)) {}

SoftwareDriver::~SoftwareDriver() = default;

bool SoftwareDriver::save(std::uint64_t netns, DeviceState& state) const {
  SavedDriver& saved = state.drivers.emplace_back();
  saved.netns = netns;
  if (!state_->keys.save(saved.keys)) return false;
  saved.totals = state_->stats.totals().save();
  const std::size_t slots = state.slots.size(), free = state.free.size();
  state_->tx.save(state.slots, state.free);
  saved.slots = static_cast<std::uint32_t>(state.slots.size() - slots);
  saved.free = static_cast<std::uint32_t>(state.free.size() - free);
  return true;
}

void SoftwareDriver::enable(VersionSet versions) { state_->keys.enable(versions); }

std::uint8_t SoftwareDriver::key_rotate(std::uint8_t proposed) {
  const std::uint8_t generation = proposed & kGenerationMask;
  state_->keys.rotate(generation);
  return generation;
}

Result<RxKey> SoftwareDriver::rx_spi_alloc(Version version) {
  return state_->keys.allocate(version);
}

void SoftwareDriver::rx_spi_unused(Spi spi) { state_->keys.take_back(spi); }

Result<std::uint32_t> SoftwareDriver::tx_key_add(Version version, Spi spi,
                                                 std::span<const std::uint8_t> key) {
  if (key.size() != key_size(version)) return fail(EINVAL, "incorrect key length", Field::kKey);
  const auto handle = state_->tx.add(version, spi, key);
  if (!handle) return fail(ENOSPC, "Tx key space exhausted");
  return *handle;
}

void SoftwareDriver::tx_key_del(std::uint32_t handle) { state_->tx.del(handle); }

DriverStats SoftwareDriver::get_stats() const { return state_->stats.totals().driver_stats(); }

void SoftwareDriver::set_clear_boundary(std::uint32_t handle, std::uint32_t sequence) {
  state_->tx.set_clear_boundary(handle, sequence);
}

std::array<std::uint64_t, PSP_DROP_MAX> SoftwareDriver::drops() const {
  return state_->stats.totals().drops;
}

std::vector<LoggedPacket> SoftwareDriver::packets() const { return state_->packets.packets(); }

std::uint64_t SoftwareDriver::spi_remaining() const { return state_->keys.spi_remaining(); }

std::size_t SoftwareDriver::rx_state_octets() const {
  return sizeof(KeyRing) + sizeof(RxSnapshot) +
         state_->engine_octets.load(std::memory_order_relaxed);
}

}  // namespace psp::device
