// SPDX-License-Identifier: Apache-2.0
//
// A driver for each network namespace, and what is said and done of all together. Phase, generation
// and enabled versions are the device's and are kept in the options of the next driver, so that one
// that joins later is in step. What a driver has counted outlives it, since counters of a device
// never fall. For a namespace without driver no key is made: it has no part in the device.
//
// Threading: see software_device.hh.
#include "device/software_device.hh"

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <utility>

namespace psp::device {
namespace {

using Drops = std::array<std::uint64_t, PSP_DROP_MAX>;

void add_drops(Drops& sum, const Drops& more) {
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += more[i];
}

std::unexpected<Error> no_part() {
  return fail(EOPNOTSUPP, "Socket is in a network namespace without PSP device", Field::kSockFd);
}

}  // namespace

SoftwareDevice::SoftwareDevice(SoftwareDriverOptions options) : options_(std::move(options)) {
  options_.packet_numbers = std::make_shared<std::atomic<std::uint64_t>>(0);
}

SoftwareDevice::SoftwareDevice(SoftwareDriverOptions options, const DeviceState& state)
    : options_(std::move(options)), stats_before_(state.device.stats_before) {
  options_.packet_numbers =
      std::make_shared<std::atomic<std::uint64_t>>(state.device.packet_numbers);
  options_.phase = state.device.phase;
  options_.generation = state.device.generation;
  options_.enabled = {state.device.enabled};
  std::copy_n(state.device.drops_before.begin(), drops_before_.size(), drops_before_.begin());
  std::span<const SavedSlot> slots = state.slots;
  std::span<const std::uint32_t> free = state.free;
  for (const SavedDriver& driver : state.drivers) {
    drivers_.try_emplace(driver.netns, options_,
                         SavedPart{driver, slots.first(driver.slots), free.first(driver.free)});
    slots = slots.subspan(driver.slots);
    free = free.subspan(driver.free);
  }
}

std::optional<DeviceState> SoftwareDevice::save() const {
  DeviceState state;
  state.device.packet_numbers = *options_.packet_numbers;
  state.device.stats_before = stats_before_;
  std::ranges::copy(drops_before_, state.device.drops_before.begin());
  state.device.phase = options_.phase;
  state.device.enabled = options_.enabled.bits;
  state.device.generation = options_.generation;
  for (const auto& [netns, driver] : drivers_)
    if (!driver.save(netns, state)) return std::nullopt;
  return state;
}

SoftwareDriver& SoftwareDevice::join(std::uint64_t netns) {
  return drivers_.try_emplace(netns, options_).first->second;
}

void SoftwareDevice::leave(std::uint64_t netns) {
  const auto found = drivers_.find(netns);
  if (found == drivers_.end()) return;
  stats_before_ += found->second.get_stats();
  add_drops(drops_before_, found->second.drops());
  drivers_.erase(found);
}

SoftwareDriver* SoftwareDevice::find(std::uint64_t netns) {
  const auto found = drivers_.find(netns);
  return found != drivers_.end() ? &found->second : nullptr;
}

const SoftwareDriver* SoftwareDevice::find(std::uint64_t netns) const {
  const auto found = drivers_.find(netns);
  return found != drivers_.end() ? &found->second : nullptr;
}

Result<void> SoftwareDevice::set_config(const DeviceConfig&, const DeviceConfig& next) {
  options_.enabled = next.versions_ena;
  for (auto& [netns, driver] : drivers_) driver.enable(next.versions_ena);
  return {};
}

Result<std::uint8_t> SoftwareDevice::key_rotate(std::uint8_t proposed) {
  options_.generation = proposed & kGenerationMask;
  options_.phase ^= 1;
  for (auto& [netns, driver] : drivers_) driver.key_rotate(options_.generation);
  return options_.generation;
}

Result<RxKey> SoftwareDevice::rx_spi_alloc(std::uint64_t netns, Version version) {
  SoftwareDriver* driver = find(netns);
  if (driver == nullptr) return no_part();
  return driver->rx_spi_alloc(version);
}

void SoftwareDevice::rx_spi_unused(std::uint64_t netns, Spi spi) {
  if (SoftwareDriver* driver = find(netns)) driver->rx_spi_unused(spi);
}

Result<std::uint32_t> SoftwareDevice::tx_key_add(std::uint64_t netns, Version version, Spi spi,
                                                 std::span<const std::uint8_t> key) {
  SoftwareDriver* driver = find(netns);
  if (driver == nullptr) return no_part();
  return driver->tx_key_add(version, spi, key);
}

void SoftwareDevice::tx_key_del(std::uint64_t netns, std::uint32_t handle) {
  if (SoftwareDriver* driver = find(netns)) driver->tx_key_del(handle);
}

Result<DriverStats> SoftwareDevice::get_stats() {
  DriverStats sum = stats_before_;
  for (const auto& [netns, driver] : drivers_) sum += driver.get_stats();
  return sum;
}

void SoftwareDevice::set_clear_boundary(std::uint64_t netns, std::uint32_t handle,
                                        std::uint32_t sequence) {
  if (SoftwareDriver* driver = find(netns)) driver->set_clear_boundary(handle, sequence);
}

std::optional<crypto::SaKey> SoftwareDevice::rx_key_of(
    std::uint64_t netns, std::span<const std::uint8_t> datagram) const {
  const SoftwareDriver* driver = find(netns);
  return driver != nullptr ? driver->rx_key_of(datagram) : std::nullopt;
}

std::optional<crypto::SaKey> SoftwareDevice::tx_key_of(
    std::uint64_t netns, std::uint32_t handle, std::span<const std::uint8_t> datagram) const {
  const SoftwareDriver* driver = find(netns);
  return driver != nullptr ? driver->tx_key_of(handle, datagram) : std::nullopt;
}

Drops SoftwareDevice::drops() const {
  Drops sum = drops_before_;
  for (const auto& [netns, driver] : drivers_) add_drops(sum, driver.drops());
  return sum;
}

std::vector<LoggedPacket> SoftwareDevice::packets() const {
  std::vector<LoggedPacket> all;
  for (const auto& [netns, driver] : drivers_)
    std::ranges::move(driver.packets(), std::back_inserter(all));
  std::ranges::sort(all, {}, &LoggedPacket::number);
  return all;
}

std::uint64_t SoftwareDevice::spi_remaining() const {
  std::uint64_t least = Spi::kIndexMask;
  for (const auto& [netns, driver] : drivers_) least = std::min(least, driver.spi_remaining());
  return least;
}

}  // namespace psp::device
