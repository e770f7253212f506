// SPDX-License-Identifier: Apache-2.0
//
// The rules of the `psp` family. Every function that answers a request checks in the kernel's
// order, because the first failing check is what a program sees (errno, text, attribute).
//
// Threading: the control thread only.
#include "device/core.hh"

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "rollback.hh"

namespace psp::device {

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

}  // namespace

Core::Core(SocketOps& sockets, NetdevOps* netdevs, const CoreOptions& options)
    : sockets_(sockets),
      netdevs_(netdevs),
      compat_(options.compat),
      devices_(options.first_id),
      associations_(options.limits) {}

Core::~Core() = default;

void Core::set_notifier(Notifier* notifier) {
  notifier_ = notifier != nullptr ? notifier : &nobody_;
}

Result<std::uint16_t> Core::add_device(NetdevKey netdev, std::string ifname, VersionSet cap,
                                       Driver& driver) {
  if (cap.bits == 0 || !VersionSet::all().contains(cap)) return fail(EINVAL);
  const Result<Record*> added = devices_.add(netdev, std::move(ifname), cap, driver);
  if (!added) return std::unexpected(added.error());
  const Device& device = (*added)->device;
  notifier_->device_added(device);
  return device.id;
}

void Core::remove_device(std::uint16_t id) {
  Record* record = devices_.at(id);
  if (record == nullptr) return;
  notifier_->device_removed(record->device);
  for (auto* list : {&record->active, &record->previous, &record->stale})
    for (Association& association : *list) revoke(*record, association);
  for (const NetdevKey netdev : devices_.remove(*record)) netdevs_->abandon(record->device, netdev);
  devices_.drop_if_unused(*record);
}

Result<void> Core::set_versions(std::uint32_t id, std::optional<VersionSet> ena, Caller caller) {
  const Result<Record*> record = devices_.owned(id, caller);
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
  notifier_->device_changed(device);
  return {};
}

Result<const Device*> Core::key_rotate(std::uint32_t id, Caller caller) {
  const Result<Record*> found = devices_.owned(id, caller);
  if (!found) return std::unexpected(found.error());
  Record* record = *found;
  Device& device = record->device;
  device.generation = (device.generation + 1) & kGenerationMask;
  const Result<std::uint8_t> taken = device.driver->key_rotate(device.generation);
  if (!taken) return std::unexpected(taken.error());
  device.generation = *taken & kGenerationMask;

  for (Association& association : record->previous) {
    association.stale = true;
    if (!association.ended) ++device.stale_events;
  }
  record->stale.splice(record->stale.end(), record->previous);
  record->previous.splice(record->previous.end(), record->active);
  ++device.key_rotations;
  notifier_->key_rotated(device);
  return &device;
}

Result<void> Core::drop_keys() {
  devices_.for_each_record([](Record& record) {
    for (auto* list : {&record.active, &record.previous, &record.stale})
      for (Association& association : *list) revoke(record, association);
  });
  for (const Device* device : devices_.all())
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
  const Result<Record*> record = devices_.visible(id, caller);
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
  const Result<Record*> record = devices_.visible(id, caller_netns);
  if (!record) return std::unexpected(record.error());
  const Device& device = (*record)->device;
  if (device.associated.size() >= kAssociatedMax)
    return fail(ENOSPC, "Maximum number of associated devices reached");
  const Result<NetdevKey> netdev = find_netdev(**record, caller_netns, ifindex, nsid);
  if (!netdev) return std::unexpected(netdev.error());
  if (devices_.at_netdev(*netdev) != nullptr)
    return fail(EBUSY, "Device already associated with a PSP device");
  auto done =
      devices_.associate(**record, *netdev, [&] { return netdevs_->attach(device, *netdev); });
  if (!done) return done;
  notifier_->device_changed(device);
  return {};
}

Result<void> Core::dev_disassoc(std::uint64_t caller_netns, std::uint32_t id,
                                std::optional<std::uint32_t> ifindex,
                                std::optional<std::int32_t> nsid) {
  if (netdevs_ == nullptr) return fail(EOPNOTSUPP);
  const Result<Record*> record = devices_.visible(id, caller_netns);
  if (!record) return std::unexpected(record.error());
  const Result<NetdevKey> netdev = find_netdev(**record, caller_netns, ifindex, nsid);
  if (!netdev) return std::unexpected(netdev.error());
  if (std::ranges::find((*record)->device.associated, *netdev) ==
      (*record)->device.associated.end())
    return fail(ENODEV, "", Field::kIfindex);
  if (auto detached = netdevs_->detach((*record)->device, *netdev); !detached) return detached;
  disassociate(**record, *netdev);
  return {};
}

// disassociate tells everybody but the namespace that loses the device; that one hears device_left.
// Up to Linux 7.3 all are told before it, while the list still has the netdev, and that is all.
void Core::disassociate(Record& record, NetdevKey netdev) {
  const bool after = compat_ >= Compat::kNetNext;
  if (!after) notifier_->device_changed(record.device);
  devices_.disassociate(record, netdev);
  if (after) {
    notifier_->device_changed(record.device);
    if (!record.device.visible_in(netdev.netns))
      notifier_->device_left(record.device, netdev.netns);
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
  Record* record = devices_.at_netdev(netdev);
  if (record == nullptr || record->device.netdev == netdev) return;
  netdevs_->abandon(record->device, netdev);
  disassociate(*record, netdev);
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
  Record* routed = route.ifindex != 0 ? devices_.at_netdev(route) : nullptr;
  if (routed != nullptr && (!caller || routed->device.visible_in(*caller))) {
    if (request.dev_id && *request.dev_id != routed->device.id)
      return fail(EINVAL, "Device id vs socket mismatch", Field::kDevId);
    return Target{*request.fd, *socket, routed, route};
  }
  if (!request.dev_id) return fail_missing(Field::kDevId);
  const Result<Record*> named = devices_.visible(*request.dev_id, caller);
  if (!named) return std::unexpected(named.error());
  if (!(*named)->device.visible_in(socket->netns))  // it has no keys there
    return fail(EOPNOTSUPP, "Socket is in a network namespace without PSP device", Field::kSockFd);
  return Target{*request.fd, *socket, *named, netdev_in((*named)->device, socket->netns)};
}

namespace {

// check_version looks at what the device can do, not at what is enabled: that is for reception
// only.
Result<Version> check_version(const Device& device, const AssocRequest& request) {
  if (!device.versions_cap.has(*request.version)) return fail(EOPNOTSUPP, "", Field::kVersion);
  return *request.version;
}

}  // namespace

Result<std::uint16_t> Core::device_of(int fd) {
  const Result<SocketInfo> socket = sockets_.examine(fd);
  if (!socket) return std::unexpected(socket.error());
  if (const Association* known = associations_.find(socket->cookie)) return known->rx.dev_id;
  const NetdevKey route{socket->netns, socket->route_ifindex};
  const Record* routed = route.ifindex != 0 ? devices_.at_netdev(route) : nullptr;
  if (routed == nullptr) return fail(ENODEV);
  return routed->device.id;
}

Result<RxAssocReply> Core::rx_assoc(const AssocRequest& request, Caller caller) {
  const Result<Target> target = find_target(request, caller);
  if (!target) return std::unexpected(target.error());
  if (!request.version) return fail_missing(Field::kVersion);
  const Result<Version> version = check_version(target->record->device, request);
  if (!version) return std::unexpected(version.error());
  if (auto room = associations_.check_room(target->netdev.netns, target->socket.uid); !room)
    return std::unexpected(room.error());

  const Device& device = target->record->device;
  Result<RxKey> rx_key = device.driver->rx_spi_alloc(target->netdev.netns, *version);
  if (!rx_key) return std::unexpected(rx_key.error());
  if (auto given = give(*target, *version, rx_key->spi); !given) {
    device.driver->rx_spi_unused(target->netdev.netns, rx_key->spi);
    return std::unexpected(given.error());
  }
  return RxAssocReply{device.id, std::move(*rx_key)};
}

// give makes the association that receives under the SPI.
Result<void> Core::give(const Target& target, Version version, Spi spi) {
  const std::uint64_t cookie = target.socket.cookie;
  if (!fit(target.socket))
    return fail(ENOTCONN, "Socket must be in established state", Field::kSockFd);
  if (associations_.at(cookie) != nullptr)
    return fail(EBUSY, "Socket already has PSP state", Field::kSockFd);

  const Device& device = target.record->device;
  const Association fresh{.cookie = cookie,
                          .rx = {.spi = spi.value,
                                 .rotation = static_cast<std::uint32_t>(device.key_rotations),
                                 .dev_id = device.id,
                                 .generation = device.generation,
                                 .version = static_cast<std::uint8_t>(version)},
                          .netdev = target.netdev,
                          .uid = target.socket.uid};
  auto added = associations_.add(*target.record, fresh, [&](const Association& association) {
    return sockets_.rx_attach(target.fd, association);
  });
  if (added) return {};
  Error error = added.error();
  error.field = Field::kSockFd;
  return std::unexpected(error);
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
  const AssociationTable::Entry* entry = associations_.at(target.socket.cookie);
  if (entry == nullptr) return fail(EINVAL, "Socket has no Rx key");
  if (entry->record != target.record) return fail(EINVAL, "Rx key from different device");
  Association& association = *entry->association;
  if (association.revoked) return fail(EINVAL, "Socket has no Rx key");
  if (association.version() != version)
    return fail(EINVAL, "PSP version mismatch with existing state");
  if (association.tx_spi) return fail(EBUSY, "Tx key already set");
  return &association;
}

Result<void> Core::tx_assoc(const AssocRequest& request, Caller caller) {
  const Result<Target> target = find_target(request, caller);
  if (!target) return std::unexpected(target.error());
  if (!request.version) return fail_missing(Field::kVersion);
  if (!request.tx_key) return fail_missing(Field::kTxKey);
  const Result<Version> version = check_version(target->record->device, request);
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
  const Result<TxSwitch> attached = sockets_.tx_attach(target->fd, next);
  if (!attached) {
    Error error = attached.error();
    error.field = Field::kNone;
    return std::unexpected(error);
  }
  added.commit();
  **association = next;
  if (*attached == TxSwitch::kDone) return {};
  return fail(EIO, "The Tx key is set, and the socket is of no use: close it");
}

void Core::end(std::uint64_t cookie) {
  if (const auto* entry = associations_.at(cookie)) entry->association->ended = true;
}

void Core::release(std::uint64_t cookie) {
  const AssociationTable::Entry* entry = associations_.at(cookie);
  if (entry == nullptr) return;
  Record& record = *entry->record;
  const std::uint64_t netns = entry->association->netdev.netns;
  revoke(record, *entry->association);
  if (associations_.remove(cookie)) tell_if_unused(record, netns);
  devices_.drop_if_unused(record);
}

}  // namespace psp::device
