// SPDX-License-Identifier: Apache-2.0
//
// The control half of the software driver: the kernel's driver operations on the shared state.
//
// Threading: the control thread; see driver_state.hh for what the workers see of it.
#include <cerrno>
#include <ctime>
#include <utility>

#include <psp/device/software_driver.hh>

#include "driver_state.hh"

namespace psp::device {

SoftwareDriver::State::State(SoftwareDriverOptions given)
    : options(std::move(given)), packets(options.packet_numbers), keys(options) {}

SoftwareDriver::SoftwareDriver(SoftwareDriverOptions options)
    : state_(std::make_unique<State>(std::move(options))) {}

SoftwareDriver::~SoftwareDriver() = default;

void SoftwareDriver::enable(VersionSet versions) { state_->keys.enable(versions); }

std::uint8_t SoftwareDriver::key_rotate(std::uint8_t proposed) {
  const std::uint8_t generation = proposed & kGenerationMask;
  state_->keys.rotate(generation);
  return generation;
}

Result<RxKey> SoftwareDriver::rx_spi_alloc(Version version) {
  return state_->keys.allocate(version);
}

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

std::uint64_t wall_clock() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u +
         static_cast<std::uint64_t>(now.tv_nsec);
}

std::vector<LoggedPacket> SoftwareDriver::packets() const { return state_->packets.packets(); }

std::uint64_t SoftwareDriver::spi_remaining() const { return state_->keys.spi_remaining(); }

std::size_t SoftwareDriver::rx_state_octets() const {
  return sizeof(KeyRing) + sizeof(RxSnapshot) +
         state_->engine_octets.load(std::memory_order_relaxed);
}

}  // namespace psp::device
