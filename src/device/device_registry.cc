// SPDX-License-Identifier: Apache-2.0
//
// Two maps that always agree: a registered device has its main and its associated netdevs in the
// second one, and no other has.
//
// Threading: see device_registry.hh.
#include "device/device_registry.hh"

#include <algorithm>
#include <cerrno>
#include <limits>
#include <utility>

#include "rollback.hh"

namespace psp::device {
namespace {

constexpr std::uint16_t kLastId = std::numeric_limits<std::uint16_t>::max();

}  // namespace

Result<const Device*> DeviceRegistry::find(std::uint32_t id, Caller caller) const {
  const DeviceRecord* record = look_up(id);
  if (record == nullptr) return fail(ENODEV);
  if (caller && !record->device.visible_in(*caller)) return fail(ENOENT);
  return &record->device;
}

const Device* DeviceRegistry::next(std::uint32_t id, Caller caller) const {
  if (id >= kLastId) return nullptr;
  for (auto it = records_.upper_bound(static_cast<std::uint16_t>(id)); it != records_.end(); ++it)
    if (it->second->registered && (!caller || it->second->device.visible_in(*caller)))
      return &it->second->device;
  return nullptr;
}

std::vector<const Device*> DeviceRegistry::all(Caller caller) const {
  std::vector<const Device*> devices;
  for (const Device* device = nullptr;
       (device = next(device != nullptr ? device->id : 0, caller)) != nullptr;)
    devices.push_back(device);
  return devices;
}

Result<DeviceRecord*> DeviceRegistry::add(NetdevKey netdev, std::string ifname, VersionSet cap,
                                          Driver& driver) {
  if (at_netdev(netdev) != nullptr) return fail(EEXIST);
  if (records_.size() > static_cast<std::size_t>(kLastId - first_id_)) return fail(ENOSPC);
  do {
    last_id_ = last_id_ == kLastId ? first_id_ : static_cast<std::uint16_t>(last_id_ + 1);
  } while (records_.contains(last_id_));

  auto record = std::make_unique<DeviceRecord>();
  record->device = {.id = last_id_,
                    .netdev = netdev,
                    .ifname = std::move(ifname),
                    .versions_cap = cap,
                    .driver = &driver};
  DeviceRecord* const added = record.get();
  Inserted by_netdev(by_netdev_, netdev, added);
  records_.emplace(last_id_, std::move(record));
  by_netdev.commit();
  ++epoch_;
  return added;
}

std::vector<NetdevKey> DeviceRegistry::remove(DeviceRecord& record) {
  ++epoch_;
  by_netdev_.erase(record.device.netdev);
  for (const NetdevKey netdev : record.device.associated) by_netdev_.erase(netdev);
  record.registered = false;
  record.device.driver = nullptr;
  return std::exchange(record.device.associated, {});
}

void DeviceRegistry::drop_if_unused(DeviceRecord& record) {
  if (!record.registered && record.unused()) records_.erase(record.device.id);
}

DeviceRecord* DeviceRegistry::look_up(std::uint32_t id) const {
  if (id > kLastId) return nullptr;
  const auto it = records_.find(static_cast<std::uint16_t>(id));
  return it != records_.end() && it->second->registered ? it->second.get() : nullptr;
}

DeviceRecord* DeviceRegistry::at_netdev(NetdevKey netdev) {
  const auto it = by_netdev_.find(netdev);
  return it != by_netdev_.end() ? it->second : nullptr;
}

Result<DeviceRecord*> DeviceRegistry::visible(std::uint32_t id, Caller caller) {
  if (const auto seen = find(id, caller); !seen) return std::unexpected(seen.error());
  return at(id);
}

Result<DeviceRecord*> DeviceRegistry::owned(std::uint32_t id, Caller caller) {
  DeviceRecord* record = at(id);
  if (record == nullptr) return fail(ENODEV);
  if (caller && record->device.netdev.netns != *caller) return fail(ENOENT);
  return record;
}

Result<void> DeviceRegistry::associate(DeviceRecord& record, NetdevKey netdev,
                                       const std::function<Result<void>()>& attach) {
  std::vector<NetdevKey>& associated = record.device.associated;
  associated.reserve(associated.size() + 1);
  Inserted by_netdev(by_netdev_, netdev, &record);
  if (auto attached = attach(); !attached) return attached;
  by_netdev.commit();
  associated.push_back(netdev);
  ++epoch_;
  return {};
}

void DeviceRegistry::disassociate(DeviceRecord& record, NetdevKey netdev) {
  std::erase(record.device.associated, netdev);
  by_netdev_.erase(netdev);
  ++epoch_;
}

DeviceRecord& DeviceRegistry::put_back(Device device, bool registered) {
  DeviceRecord& record =
      *records_.emplace(device.id, std::make_unique<DeviceRecord>()).first->second;
  record.device = std::move(device);
  record.registered = registered;
  if (!registered) return record;
  by_netdev_.emplace(record.device.netdev, &record);
  for (const NetdevKey netdev : record.device.associated) by_netdev_.emplace(netdev, &record);
  return record;
}

void DeviceRegistry::for_each_record(const std::function<void(const DeviceRecord&)>& visit) const {
  for (const auto& [id, record] : records_) visit(*record);
}

void DeviceRegistry::for_each_record(const std::function<void(DeviceRecord&)>& visit) {
  for (const auto& [id, record] : records_) visit(*record);
}

}  // namespace psp::device
