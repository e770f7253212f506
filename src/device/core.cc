// SPDX-License-Identifier: Apache-2.0
//
// The registry of devices and associations, and the rules of the `psp` family. Every function that
// answers a request checks in the kernel's order, because the first failing check is what a program
// sees (errno, text, attribute).
//
// Associations of a device hang on one of three lists, as in the kernel: active (under the active
// device key), previous (one rotation old), stale. A rotation moves whole lists.
#include <algorithm>
#include <cerrno>
#include <limits>
#include <list>
#include <utility>

#include <psp/device/core.hh>

namespace psp::device {
namespace {

Listener& silent_listener() {
  static Listener silent;
  return silent;
}

}  // namespace

bool Device::present_in(std::uint64_t netns) const {
  return std::ranges::any_of(associated, [netns](NetdevKey key) { return key.netns == netns; });
}

struct Core::Record {
  Device device;
  bool registered = true;
  std::list<Association> active, previous, stale;
  std::map<std::uint64_t, std::size_t> in_netns;  // associations by namespace, none with 0

  bool unused() const { return active.empty() && previous.empty() && stale.empty(); }

  // list_of is the list that holds an association made after `birth` rotations.
  std::list<Association>& list_of(const Association& association, std::uint64_t birth) {
    if (association.stale) return stale;
    return birth == device.key_rotations ? active : previous;
  }
};

struct Core::Entry {
  Record* record;
  std::list<Association>::iterator association;
  std::uint64_t birth;  // key_rotations when it was made
};

struct Core::Target {
  int fd;
  SocketInfo socket;
  Record* record;
  NetdevKey netdev;
};

namespace {

// netdev_in is the device's netdev in that namespace, where it must be visible.
NetdevKey netdev_in(const Device& device, std::uint64_t netns) {
  if (device.netdev.netns == netns) return device.netdev;
  const auto found = std::ranges::find(device.associated, netns, &NetdevKey::netns);
  return found != device.associated.end() ? *found : device.netdev;
}

// uncount takes one of `key` away. True: it was the last.
template <typename Map>
bool uncount(Map& counts, typename Map::key_type key) {
  const auto found = counts.find(key);
  if (--found->second != 0) return false;
  counts.erase(found);
  return true;
}

// Counted is one more of `key`, until its end if it is not kept.
template <typename Map>
class Counted {
 public:
  Counted(Map& counts, typename Map::key_type key) : counts_(&counts), key_(key) { ++counts[key]; }
  ~Counted() {
    if (counts_ != nullptr) uncount(*counts_, key_);
  }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  void keep() { counts_ = nullptr; }

 private:
  Map* counts_;
  typename Map::key_type key_;
};

// Placed is a new element of a map, until its end if it is not kept.
template <typename Map>
class Placed {
 public:
  Placed(Map& map, typename Map::key_type key, typename Map::mapped_type value)
      : map_(&map), place_(map.emplace(key, std::move(value)).first) {}
  ~Placed() {
    if (map_ != nullptr) map_->erase(place_);
  }
  Placed(const Placed&) = delete;
  Placed& operator=(const Placed&) = delete;
  void keep() { map_ = nullptr; }

 private:
  Map* map_;
  typename Map::iterator place_;
};

// TxKeyOf is a driver's Tx key, until its end if it is not kept.
class TxKeyOf {
 public:
  TxKeyOf(Driver& driver, std::uint64_t netns, std::uint32_t handle)
      : driver_(&driver), netns_(netns), handle_(handle) {}
  ~TxKeyOf() {
    if (driver_ != nullptr) driver_->tx_key_del(netns_, handle_);
  }
  TxKeyOf(const TxKeyOf&) = delete;
  TxKeyOf& operator=(const TxKeyOf&) = delete;
  void keep() { driver_ = nullptr; }

 private:
  Driver* driver_;
  std::uint64_t netns_;
  std::uint32_t handle_;
};

}  // namespace

Core::Core(SocketOps& sockets, NetdevOps* netdevs)
    : sockets_(sockets), netdevs_(netdevs), listener_(&silent_listener()) {}

Core::~Core() = default;

void Core::set_listener(Listener* listener) {
  listener_ = listener != nullptr ? listener : &silent_listener();
}

Result<std::uint16_t> Core::add_device(NetdevKey netdev, std::string ifname, VersionSet cap,
                                       Driver& driver) {
  if (cap.bits == 0 || !VersionSet::all().contains(cap)) return fail(EINVAL);
  if (find_record_by_netdev(netdev) != nullptr) return fail(EEXIST);
  constexpr std::uint16_t kLast = std::numeric_limits<std::uint16_t>::max();
  if (records_.size() > static_cast<std::size_t>(kLast - first_id_)) return fail(ENOSPC);
  do {
    last_id_ = last_id_ == kLast ? first_id_ : static_cast<std::uint16_t>(last_id_ + 1);
  } while (records_.contains(last_id_));

  auto record = std::make_unique<Record>();
  record->device = {.id = last_id_,
                    .netdev = netdev,
                    .ifname = std::move(ifname),
                    .versions_cap = cap,
                    .driver = &driver};
  const Device& device = record->device;
  Placed by_netdev(by_netdev_, netdev, record.get());
  records_.emplace(last_id_, std::move(record));
  by_netdev.keep();
  ++devices_epoch_;
  listener_->device_added(device);
  return device.id;
}

void Core::remove_device(std::uint16_t id) {
  Record* record = find_record(id);
  if (record == nullptr) return;
  ++devices_epoch_;
  listener_->device_removed(record->device);
  for (auto* list : {&record->active, &record->previous, &record->stale})
    for (Association& association : *list) revoke(*record, association);
  by_netdev_.erase(record->device.netdev);
  for (const NetdevKey netdev : std::exchange(record->device.associated, {})) {
    by_netdev_.erase(netdev);
    netdevs_->detach(record->device, netdev);
  }
  record->registered = false;
  record->device.driver = nullptr;
  drop_record_if_unused(*record);
}

Core::Record* Core::find_record(std::uint32_t id) {
  if (id > std::numeric_limits<std::uint16_t>::max()) return nullptr;
  const auto it = records_.find(static_cast<std::uint16_t>(id));
  return it != records_.end() && it->second->registered ? it->second.get() : nullptr;
}

Core::Record* Core::find_record_by_netdev(NetdevKey netdev) {
  const auto it = by_netdev_.find(netdev);
  return it != by_netdev_.end() ? it->second : nullptr;
}

Result<Core::Record*> Core::find_visible(std::uint32_t id, Caller caller) {
  Record* record = find_record(id);
  if (record == nullptr) return fail(ENODEV);
  if (caller && !record->device.visible_in(*caller)) return fail(ENOENT);
  return record;
}

// find_owned is for what only the main namespace may do.
Result<Core::Record*> Core::find_owned(std::uint32_t id, Caller caller) {
  Record* record = find_record(id);
  if (record == nullptr) return fail(ENODEV);
  if (caller && record->device.netdev.netns != *caller) return fail(ENOENT);
  return record;
}

void Core::drop_record_if_unused(Record& record) {
  if (!record.registered && record.unused()) records_.erase(record.device.id);
}

Result<Device*> Core::find_device(std::uint32_t id, Caller caller) {
  const Result<Record*> record = find_visible(id, caller);
  if (!record) return std::unexpected(record.error());
  return &(*record)->device;
}

std::vector<const Device*> Core::devices(Caller caller) const {
  std::vector<const Device*> devices;
  for (const Device* device = nullptr;
       (device = next_device(device != nullptr ? device->id : 0, caller)) != nullptr;)
    devices.push_back(device);
  return devices;
}

const Device* Core::next_device(std::uint32_t id, Caller caller) const {
  if (id >= std::numeric_limits<std::uint16_t>::max()) return nullptr;
  for (auto it = records_.upper_bound(static_cast<std::uint16_t>(id)); it != records_.end(); ++it)
    if (it->second->registered && (!caller || it->second->device.visible_in(*caller)))
      return &it->second->device;
  return nullptr;
}

Result<void> Core::set_versions(std::uint32_t id, std::optional<VersionSet> ena, Caller caller) {
  const Result<Record*> record = find_owned(id, caller);
  if (!record) return std::unexpected(record.error());
  Device& device = (*record)->device;
  if (!ena) return fail(EINVAL, "No settings present");
  if (!device.versions_cap.contains(*ena))
    return fail(EINVAL, "Requested PSP versions not supported by the device");

  const DeviceConfig next{*ena};
  if (next != device.config) {
    if (auto applied = device.driver->set_config(device.config, next); !applied) return applied;
    device.config = next;
  }
  listener_->device_changed(device);
  return {};
}

Result<const Device*> Core::key_rotate(std::uint32_t id, Caller caller) {
  const Result<Record*> found = find_owned(id, caller);
  if (!found) return std::unexpected(found.error());
  Record* record = *found;
  Device& device = record->device;
  device.generation = (device.generation + 1) & kGenerationMask;
  const Result<std::uint8_t> taken = device.driver->key_rotate(device.generation);
  if (!taken) return std::unexpected(taken.error());
  device.generation = *taken & kGenerationMask;

  for (Association& association : record->previous) {
    association.stale = true;
    if (association.ended) continue;
    ++device.stale_events;
    listener_->association_stale(association);
  }
  record->stale.splice(record->stale.end(), record->previous);
  record->previous.splice(record->previous.end(), record->active);
  ++device.key_rotations;
  listener_->key_rotated(device);
  return &device;
}

Result<void> Core::drop_keys() {
  for (const auto& [id, record] : records_)
    for (auto* list : {&record->active, &record->previous, &record->stale})
      for (Association& association : *list) revoke(*record, association);
  for (const Device* device : devices())
    for (int i = 0; i < 2; ++i)  // the active one, and the previous one
      if (auto rotated = key_rotate(device->id); !rotated) return std::unexpected(rotated.error());
  return {};
}

// revoke deletes the Tx key of an association, once.
void Core::revoke(const Record& record, Association& association) {
  const bool first = !std::exchange(association.revoked, true);
  if (first && association.tx_spi && record.registered)
    record.device.driver->tx_key_del(association.netdev.netns,
                                     std::exchange(association.tx_handle, 0));
}

Result<DeviceStats> Core::stats(std::uint32_t id, Caller caller) {
  const Result<Record*> record = find_visible(id, caller);
  if (!record) return std::unexpected(record.error());
  const Device& device = (*record)->device;
  const Result<DriverStats> driver = device.driver->get_stats();
  if (!driver) return std::unexpected(driver.error());
  return DeviceStats{device.key_rotations, device.stale_events, *driver};
}

// find_netdev is the netdev that a dev-assoc or dev-disassoc is about; whether there is such a one
// is not looked at.
Result<NetdevKey> Core::find_netdev(const Record& record, std::uint64_t caller_netns,
                                    std::optional<std::uint32_t> ifindex,
                                    std::optional<std::int32_t> nsid) {
  if (!ifindex) return fail_missing(Field::kIfindex);
  if (!nsid) return NetdevKey{caller_netns, *ifindex};
  if (record.device.netdev.netns != caller_netns) return fail(EPERM, "", Field::kNsid);
  const Result<std::uint64_t> netns = netdevs_->netns_of(caller_netns, *nsid);
  if (!netns) return fail(netns.error().sys_errno, netns.error().text, Field::kNsid);
  return NetdevKey{*netns, *ifindex};
}

Result<void> Core::dev_assoc(std::uint64_t caller_netns, std::uint32_t id,
                             std::optional<std::uint32_t> ifindex,
                             std::optional<std::int32_t> nsid) {
  if (netdevs_ == nullptr) return fail(EOPNOTSUPP);
  const Result<Record*> record = find_visible(id, caller_netns);
  if (!record) return std::unexpected(record.error());
  Device& device = (*record)->device;
  if (device.associated.size() >= kAssociatedMax)
    return fail(ENOSPC, "Maximum number of associated devices reached");
  const Result<NetdevKey> netdev = find_netdev(**record, caller_netns, ifindex, nsid);
  if (!netdev) return std::unexpected(netdev.error());
  if (find_record_by_netdev(*netdev) != nullptr)
    return fail(EBUSY, "Device already associated with a PSP device");
  // Its places come first, as for associations.
  device.associated.reserve(device.associated.size() + 1);
  Placed by_netdev(by_netdev_, *netdev, *record);
  if (auto attached = netdevs_->attach(device, *netdev); !attached) return attached;
  by_netdev.keep();
  device.associated.push_back(*netdev);
  ++devices_epoch_;
  listener_->device_changed(device);
  return {};
}

Result<void> Core::dev_disassoc(std::uint64_t caller_netns, std::uint32_t id,
                                std::optional<std::uint32_t> ifindex,
                                std::optional<std::int32_t> nsid) {
  if (netdevs_ == nullptr) return fail(EOPNOTSUPP);
  const Result<Record*> record = find_visible(id, caller_netns);
  if (!record) return std::unexpected(record.error());
  const Result<NetdevKey> netdev = find_netdev(**record, caller_netns, ifindex, nsid);
  if (!netdev) return std::unexpected(netdev.error());
  if (std::ranges::find((*record)->device.associated, *netdev) ==
      (*record)->device.associated.end())
    return fail(ENODEV, "", Field::kIfindex);
  disassociate(**record, *netdev);
  return {};
}

// disassociate tells everybody but the namespace that loses the device; that one hears device_left.
// Up to Linux 7.3 all are told before it, while the list still has the netdev, and that is all.
void Core::disassociate(Record& record, NetdevKey netdev) {
  const bool after = compat_ >= Compat::kNetNext;
  if (!after) listener_->device_changed(record.device);
  std::erase(record.device.associated, netdev);
  by_netdev_.erase(netdev);
  ++devices_epoch_;
  netdevs_->detach(record.device, netdev);
  if (after) {
    listener_->device_changed(record.device);
    if (!record.device.visible_in(netdev.netns))
      listener_->device_left(record.device, netdev.netns);
  }
  tell_if_unused(record, netdev.netns);
}

// tell_if_unused lets the driver forget the keys of a namespace where nothing can use them again.
// Associations can: their sockets are only blocked until a netdev there has the device again.
void Core::tell_if_unused(const Record& record, std::uint64_t netns) {
  if (record.registered && !record.device.visible_in(netns) && !record.in_netns.contains(netns))
    record.device.driver->netns_unused(netns);
}

void Core::netdev_gone(NetdevKey netdev) {
  Record* record = find_record_by_netdev(netdev);
  if (record != nullptr && record->device.netdev != netdev) disassociate(*record, netdev);
}

std::int32_t Core::nsid_of(std::uint64_t caller_netns, std::uint64_t netns) const {
  return netdevs_ != nullptr ? netdevs_->nsid_of(caller_netns, netns) : -1;
}

// fit tells whether the socket's TCP state allows an association.
bool Core::fit(const SocketInfo& socket) const {
  return socket.established || compat_ < Compat::kNetNext;
}

Result<Core::Target> Core::find_target(const AssocRequest& request, Caller caller) {
  if (!request.fd) return fail_missing(Field::kSockFd);
  if (*request.fd < 0) return fail(EBADF);
  const Result<SocketInfo> socket = sockets_.examine(*request.fd);
  if (!socket) return std::unexpected(socket.error());

  // The route decides; a device named in the request can only confirm it, or stand in for it. One
  // that the caller may not see is no device.
  const NetdevKey route{socket->netns, socket->route_ifindex};
  Record* routed = route.ifindex != 0 ? find_record_by_netdev(route) : nullptr;
  if (routed != nullptr && (!caller || routed->device.visible_in(*caller))) {
    if (request.dev_id && *request.dev_id != routed->device.id)
      return fail(EINVAL, "Device id vs socket mismatch", Field::kDevId);
    return Target{*request.fd, *socket, routed, route};
  }
  if (!request.dev_id) return fail_missing(Field::kDevId);
  const Result<Record*> named = find_visible(*request.dev_id, caller);
  if (!named) return std::unexpected(named.error());
  if (!(*named)->device.visible_in(socket->netns))  // it has no keys there
    return fail(EOPNOTSUPP, "Socket is in a network namespace without PSP device", Field::kSockFd);
  return Target{*request.fd, *socket, *named, netdev_in((*named)->device, socket->netns)};
}

// check_version looks at what the device can do, not at what is enabled: that is for reception
// only.
Result<Version> Core::check_version(const Record& record, const AssocRequest& request) const {
  if (!record.device.versions_cap.has(*request.version))
    return fail(EOPNOTSUPP, "", Field::kVersion);
  return *request.version;
}

Result<void> Core::check_limits(const SocketInfo& socket) const {
  if (associations_.size() >= limits_.all)
    return fail(ENOSPC, "Too many PSP associations", Field::kSockFd);
  const auto own = of_user_.find(socket.uid);
  if (socket.uid != 0 && own != of_user_.end() && own->second >= limits_.of_a_user)
    return fail(EDQUOT, "Too many PSP associations of this user", Field::kSockFd);
  return {};
}

Result<std::uint16_t> Core::device_of(int fd) {
  const Result<SocketInfo> socket = sockets_.examine(fd);
  if (!socket) return std::unexpected(socket.error());
  if (const Association* known = find_association(socket->cookie)) return known->dev_id;
  const NetdevKey route{socket->netns, socket->route_ifindex};
  const Record* routed = route.ifindex != 0 ? find_record_by_netdev(route) : nullptr;
  if (routed == nullptr) return fail(ENODEV);
  return routed->device.id;
}

Result<RxAssocReply> Core::rx_assoc(const AssocRequest& request, Caller caller) {
  const Result<Target> target = find_target(request, caller);
  if (!target) return std::unexpected(target.error());
  if (!request.version) return fail_missing(Field::kVersion);
  const Result<Version> version = check_version(*target->record, request);
  if (!version) return std::unexpected(version.error());
  if (auto room = check_limits(target->socket); !room) return std::unexpected(room.error());

  Device& device = target->record->device;
  Result<RxKey> rx_key = device.driver->rx_spi_alloc(target->netdev.netns, *version);
  if (!rx_key) return std::unexpected(rx_key.error());

  const std::uint64_t cookie = target->socket.cookie;
  if (!fit(target->socket))
    return fail(ENOTCONN, "Socket must be in established state", Field::kSockFd);
  if (associations_.contains(cookie))
    return fail(EBUSY, "Socket already has PSP state", Field::kSockFd);

  // Its places come first: once the socket is attached nothing may fail.
  std::list<Association> fresh{{.cookie = cookie,
                                .dev_id = device.id,
                                .netdev = target->netdev,
                                .version = *version,
                                .generation = device.generation,
                                .rx_spi = rx_key->spi,
                                .uid = target->socket.uid}};
  Counted in_netns(target->record->in_netns, target->netdev.netns);
  Counted of_user(of_user_, target->socket.uid);
  Placed by_cookie(associations_, cookie,
                   Entry{target->record, fresh.begin(), device.key_rotations});
  if (auto attached = sockets_.rx_attach(target->fd, fresh.front()); !attached) {
    Error error = attached.error();
    error.field = Field::kSockFd;
    return std::unexpected(error);
  }
  target->record->active.splice(target->record->active.end(), fresh);
  by_cookie.keep();
  in_netns.keep();
  of_user.keep();
  return RxAssocReply{device.id, std::move(*rx_key)};
}

namespace {

// TxKey is a tx-key attribute that passed its checks.
struct TxKey {
  Spi spi;
  std::span<const std::uint8_t> key;
};

Result<TxKey> parse_tx_key(const AssocRequest::Keys& keys, Version version) {
  if (!keys.key) return fail_missing(Field::kKey);
  if (!keys.spi) return fail_missing(Field::kSpi);
  if (keys.key->size() != key_size(version))
    return fail(EINVAL, "incorrect key length", Field::kKey);
  const Spi spi{*keys.spi};
  // The kernel points at the key here, not at the SPI.
  if (!spi.valid()) return fail(EINVAL, "invalid SPI: lower 31b must be non-zero", Field::kKey);
  return TxKey{spi, *keys.key};
}

}  // namespace

Result<Association*> Core::check_tx_socket(const Target& target, Version version) {
  if (!fit(target.socket)) return fail(ENOTCONN, "Socket must be in established state");
  const auto it = associations_.find(target.socket.cookie);
  if (it == associations_.end()) return fail(EINVAL, "Socket has no Rx key");
  if (it->second.record != target.record) return fail(EINVAL, "Rx key from different device");
  Association& association = *it->second.association;
  if (association.revoked) return fail(EINVAL, "Socket has no Rx key");
  if (association.version != version)
    return fail(EINVAL, "PSP version mismatch with existing state");
  if (association.tx_spi) return fail(EBUSY, "Tx key already set");
  return &association;
}

Result<void> Core::tx_assoc(const AssocRequest& request, Caller caller) {
  const Result<Target> target = find_target(request, caller);
  if (!target) return std::unexpected(target.error());
  if (!request.version) return fail_missing(Field::kVersion);
  if (!request.tx_key) return fail_missing(Field::kTxKey);
  const Result<Version> version = check_version(*target->record, request);
  if (!version) return std::unexpected(version.error());
  const Result<TxKey> tx_key = parse_tx_key(*request.tx_key, *version);
  if (!tx_key) return std::unexpected(tx_key.error());
  const Result<Association*> association = check_tx_socket(*target, *version);
  if (!association) return std::unexpected(association.error());

  // The kernel asks its driver last. Here the driver comes first: the moment the socket is
  // switched, packets may look for the key, and a refused switch can be undone while a made one
  // cannot.
  Driver& driver = *target->record->device.driver;
  const std::uint64_t netns = (*association)->netdev.netns;
  const Result<std::uint32_t> handle = driver.tx_key_add(netns, *version, tx_key->spi, tx_key->key);
  if (!handle) return std::unexpected(handle.error());
  TxKeyOf added(driver, netns, *handle);
  Association next = **association;
  next.tx_spi = tx_key->spi;
  next.tx_handle = *handle;
  if (auto attached = sockets_.tx_attach(target->fd, next); !attached) {
    Error error = attached.error();
    error.field = Field::kNone;
    return std::unexpected(error);
  }
  added.keep();
  **association = next;
  return {};
}

void Core::end(std::uint64_t cookie) {
  const auto it = associations_.find(cookie);
  if (it != associations_.end()) it->second.association->ended = true;
}

void Core::release(std::uint64_t cookie) {
  const auto it = associations_.find(cookie);
  if (it == associations_.end()) return;
  const Entry entry = it->second;
  associations_.erase(it);
  Record& record = *entry.record;
  const std::uint64_t netns = entry.association->netdev.netns;
  uncount(of_user_, entry.association->uid);
  revoke(record, *entry.association);
  record.list_of(*entry.association, entry.birth).erase(entry.association);
  if (uncount(record.in_netns, netns)) tell_if_unused(record, netns);
  drop_record_if_unused(record);
}

const Association* Core::find_association(std::uint64_t cookie) const {
  const auto it = associations_.find(cookie);
  return it != associations_.end() ? &*it->second.association : nullptr;
}

std::size_t Core::association_count() const { return associations_.size(); }

void Core::for_each_association(const std::function<void(const Association&)>& visit) const {
  for (const auto& [cookie, entry] : associations_) visit(*entry.association);
}

}  // namespace psp::device
