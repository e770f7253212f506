// SPDX-License-Identifier: Apache-2.0
//
// What one device does on all its netdevs at once, and what it leaves where one of them fails. Keys
// are the software device's; an attachment only hands its namespace's driver to its workers.
//
// Threading: see host_device.hh.
#include "host_device.hh"

#include <algorithm>
#include <fmt/format.h>
#include <new>
#include <utility>

namespace psp::kernel {
namespace {

// undo detaches what could not be started. What to add to the reason.
std::string undo(Attachment& attachment) {
  const auto done = attachment.detach();
  return done ? "" : "; and what is in place already stays: " + done.error();
}

// or_no_memory makes running out of memory an error as all others, so that what was done is undone.
template <typename Call>
auto or_no_memory(Call call) -> decltype(call()) {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    return std::unexpected("no memory");
  }
}

}  // namespace

HostDevice::HostDevice(const HostDeviceContext& context, const HostDeviceOptions& options)
    : context_(context), options_(options), software_(options.driver) {}

std::expected<std::unique_ptr<HostDevice>, std::string> HostDevice::attach(
    const HostDeviceContext& context, const Netdev& netdev, UniqueFd lock,
    const HostDeviceOptions& options) {
  std::unique_ptr<HostDevice> device(new HostDevice(context, options));
  auto main = Attachment::open(context.namespaces.home(), netdev, std::move(lock),
                               device->software_.join(netdev.netns), options);
  if (!main) return std::unexpected(main.error());
  device->main_ = std::move(*main);
  if (auto started = or_no_memory([&] { return device->start(); }); !started)
    return std::unexpected(started.error() + undo(*device->main_));
  return device;
}

std::expected<void, std::string> HostDevice::start() {
  const Netdev& netdev = main_->netdev();
  auto id = context_.core.add_device(netdev.key(), netdev.name, VersionSet::all(), *this);
  if (!id) return std::unexpected(fmt::format("{}: the device cannot be registered", netdev.name));
  id_ = *id;
  context_.sockets.bind_device(id_, software_);
  return main_->start(context_.secrets, context_.programs, id_, versions_, rotation_);
}

HostDevice::~HostDevice() {
  if (id_ == 0) return;
  context_.core.remove_device(id_);
  context_.sockets.unbind_device(id_);
}

std::expected<void, std::string> HostDevice::associate(const Netdev& netdev, UniqueFd lock) {
  const Netns* netns = context_.namespaces.find(netdev.netns);
  if (netns == nullptr) return std::unexpected(netdev.name + " is in an unknown namespace");
  const bool known = software_.has(netdev.netns);
  Associated fresh;  // its place comes first
  auto attachment = or_no_memory([&] {
    fresh.try_emplace(netdev.key());
    return attach_there(*netns, netdev, std::move(lock));
  });
  if (!attachment) {
    if (!known) software_.leave(netdev.netns);
    return std::unexpected(attachment.error());
  }
  fresh.begin()->second = std::move(*attachment);
  associated_.merge(fresh);
  return {};
}

bool HostDevice::shares_address(const Netdev& netdev) const {
  bool found = false;
  for_each_attachment(
      [&](const Attachment& attachment) { found |= share_address(attachment.netdev(), netdev); });
  return found;
}

std::expected<std::unique_ptr<Attachment>, std::string> HostDevice::attach_there(
    const Netns& netns, const Netdev& netdev, UniqueFd lock) {
  auto attachment =
      Attachment::open(netns, netdev, std::move(lock), software_.join(netdev.netns), options_);
  if (!attachment) return attachment;
  auto started = or_no_memory([&] {
    return (*attachment)->start(context_.secrets, context_.programs, id_, versions_, rotation_);
  });
  if (started) return attachment;
  return std::unexpected(started.error() + undo(**attachment));
}

std::expected<void, std::string> HostDevice::disassociate(device::NetdevKey netdev) {
  const auto found = associated_.find(netdev);
  if (found == associated_.end()) return {};
  Attachment& attachment = *found->second;
  if (auto done = or_no_memory([&] { return attachment.detach(); }); !done) {
    const auto back = or_no_memory([&] { return attachment.resume(); });
    return std::unexpected(done.error() +
                           (back ? "" : "; what was taken off is missing: " + back.error()));
  }
  return abandon(netdev);
}

std::expected<void, std::string> HostDevice::abandon(device::NetdevKey netdev) {
  const auto found = associated_.extract(netdev);  // whatever comes
  if (!found) return {};
  Attachment& attachment = *found.mapped();
  return or_no_memory([&] {
    auto detached = attachment.detach();
    const DropCounts last = attachment.drops();
    for (std::size_t i = 0; i < last.size(); i++) drops_before_[i] += last[i];
    return detached;
  });
}

template <typename Call>
void HostDevice::for_each_attachment(Call call) const {
  call(*main_);
  for (const auto& [key, attachment] : associated_) call(*attachment);
}

template <typename Call>
std::expected<void, std::string> HostDevice::try_each(Call call) const {
  std::string trouble;
  for_each_attachment([&](Attachment& attachment) {
    const std::expected<void, std::string> done = or_no_memory([&] { return call(attachment); });
    if (!done) trouble += (trouble.empty() ? "" : "; ") + done.error();
  });
  if (trouble.empty()) return {};
  return std::unexpected(trouble);
}

void HostDevice::silence() {
  for_each_attachment([](Attachment& attachment) { attachment.silence(); });
}

std::expected<void, std::string> HostDevice::detach() {
  return try_each([](Attachment& attachment) { return attachment.detach(); });
}

std::expected<void, std::string> HostDevice::resume() {
  return try_each([](Attachment& attachment) { return attachment.resume(); });
}

device::Result<void> HostDevice::set_config(const device::DeviceConfig& current,
                                            const device::DeviceConfig& next) {
  auto done = software_.set_config(current, next);
  if (!done) return done;
  const auto set = [this](VersionSet versions) {
    bool all = true;
    for_each_attachment([&](Attachment& attachment) { all &= attachment.set_versions(versions); });
    return all;
  };
  if (set(next.versions_ena)) {
    versions_ = next.versions_ena;
    return done;
  }
  (void)set(versions_);
  (void)software_.set_config(next, current);
  return device::fail(EIO);
}

device::Result<std::uint8_t> HostDevice::key_rotate(std::uint8_t proposed) {
  auto done = software_.key_rotate(proposed);
  if (!done) return done;
  rotation_++;
  // An element of an array always has its place: this does not fail.
  for_each_attachment([&](Attachment& attachment) { (void)attachment.set_rotation(rotation_); });
  return done;
}

void HostDevice::netns_unused(std::uint64_t netns) {
  // Workers are never left without their driver, whatever the core believes.
  const auto there = [netns](const auto& entry) { return entry.first.netns == netns; };
  if (std::ranges::none_of(associated_, there)) software_.leave(netns);
}

Condition HostDevice::condition() const {
  Condition all;
  for_each_attachment([&](const Attachment& attachment) { all.add(attachment.condition()); });
  return all;
}

DropCounts HostDevice::drops() const {
  DropCounts drops = software_.drops();
  for (std::size_t i = 0; i < drops.size(); i++) drops[i] += drops_before_[i];
  for_each_attachment([&](const Attachment& attachment) {
    const DropCounts programs = attachment.drops();
    for (std::size_t i = 0; i < drops.size(); i++) drops[i] += programs[i];
  });
  return drops;
}

}  // namespace psp::kernel
