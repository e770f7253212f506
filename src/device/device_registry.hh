// SPDX-License-Identifier: Apache-2.0
//
// The registry of devices: by id and by netdev, with who may see which. It knows no rules but
// those of names: what a request may do to a device is the core's. Whoever is not the core has it
// const.
//
// Threading: the control thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "device/device.hh"
#include "device/error.hh"
#include "device/saved.hh"

namespace psp::device {

// DeviceRecord is a device and the associations that hold on to its id. They are on one of three
// lists, as in the kernel: active (under the active device key), previous (one rotation old),
// stale. A rotation moves whole lists.
struct DeviceRecord {
  Device device;
  bool registered = true;
  std::list<Association> active, previous, stale;
  std::map<std::uint64_t, std::size_t> in_netns;  // associations by namespace, none with 0

  bool unused() const { return active.empty() && previous.empty() && stale.empty(); }

  // list_of is the list that holds an association. One that is not stale is not older than a
  // rotation, so that the low bits of their number will do.
  std::list<Association>& list_of(const Association& association) {
    if (association.stale) return stale;
    const auto now = static_cast<std::uint32_t>(device.key_rotations);
    return association.rx.rotation == now ? active : previous;
  }
};

class DeviceRegistry {
 public:
  // `first_id`: ids are from here on.
  explicit DeviceRegistry(std::uint16_t first_id)
      : first_id_(first_id), last_id_(static_cast<std::uint16_t>(first_id - 1)) {}
  // Without devices yet: put_back follows, by id.
  DeviceRegistry(std::uint16_t first_id, const SavedRegistry& saved)
      : first_id_(first_id), last_id_(saved.last_id), epoch_(saved.epoch) {}
  DeviceRecord& put_back(Device device, bool registered);
  SavedRegistry save() const { return {.epoch = epoch_, .last_id = last_id_}; }

  // find: ENODEV if there is none of that id, ENOENT if the caller may not see it.
  Result<const Device*> find(std::uint32_t id, Caller caller = {}) const;
  // next is the one with the smallest id above `id` that the caller may see, or null.
  const Device* next(std::uint32_t id, Caller caller = {}) const;
  std::vector<const Device*> all(Caller caller = {}) const;  // that it may see, by id
  // epoch changes when a device or an associated netdev comes or goes.
  std::uint64_t epoch() const { return epoch_; }

  // For the core. add registers a device; see Core::add_device. remove takes it from the registry,
  // and returns the netdevs that were associated; its record stays while associations hold its id.
  // It takes no memory.
  Result<DeviceRecord*> add(NetdevKey netdev, std::string ifname, VersionSet cap, Driver& driver);
  std::vector<NetdevKey> remove(DeviceRecord& record);
  void drop_if_unused(DeviceRecord& record);
  // at, at_netdev: null if there is none. visible: as find. owned: for what only the main namespace
  // may do, ENOENT for others.
  DeviceRecord* at(std::uint32_t id) { return look_up(id); }
  DeviceRecord* at_netdev(NetdevKey netdev);
  Result<DeviceRecord*> visible(std::uint32_t id, Caller caller);
  Result<DeviceRecord*> owned(std::uint32_t id, Caller caller);
  // associate does `attach` for a netdev that becomes one of the device's: all of it or nothing.
  Result<void> associate(DeviceRecord& record, NetdevKey netdev,
                         const std::function<Result<void>()>& attach);
  void disassociate(DeviceRecord& record, NetdevKey netdev);
  // for_each_record visits all, also those that only their associations keep.
  void for_each_record(const std::function<void(DeviceRecord&)>& visit);
  void for_each_record(const std::function<void(const DeviceRecord&)>& visit) const;

 private:
  struct NetdevHash {
    std::size_t operator()(const NetdevKey& key) const {
      return std::hash<std::uint64_t>()(key.netns * 0x9e3779b97f4a7c15u + key.ifindex);
    }
  };

  DeviceRecord* look_up(std::uint32_t id) const;

  std::map<std::uint16_t, std::unique_ptr<DeviceRecord>> records_;
  // Registered devices by their netdevs, main and associated.
  std::unordered_map<NetdevKey, DeviceRecord*, NetdevHash> by_netdev_;
  std::uint16_t first_id_;
  std::uint16_t last_id_;
  std::uint64_t epoch_ = 1;
};

}  // namespace psp::device
