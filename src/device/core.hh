// SPDX-License-Identifier: Apache-2.0
//
// The PSP core: devices, associations and the rules of Linux's `psp` family, without netlink and
// without sockets. Everything the kernel does between its netlink front and its drivers is here, in
// its order of checks. Pure: sockets, drivers and listeners are given.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "device/device.hh"
#include "device/device_registry.hh"
#include "device/driver.hh"
#include "device/error.hh"
#include "device/sa/association.hh"
#include "device/sa/association_table.hh"
#include "wire/types.hh"

namespace psp::device {

// SocketInfo is what the core must know of a socket before it decides.
struct SocketInfo {
  std::uint64_t cookie = 0;         // SO_COOKIE: identifies the socket for its whole life
  std::uint64_t netns = 0;          // cookie of the socket's network namespace
  std::uint32_t route_ifindex = 0;  // netdev of the socket's cached route, 0 if it has none
  bool established = false;         // TCP_ESTABLISHED at that moment; the attach calls look again
  std::uint32_t uid = 0;            // whose socket it is, as the kernel itself numbers users
};

// TxSwitch is how a socket has been switched to its Tx key: for good, as a switch cannot be undone.
enum class TxSwitch : std::uint8_t {
  kDone,
  kInVain,  // it has the key, and is of no use: not all that it needs could be told
};

// SocketOps is what the core does to sockets; kernel::KernelSockets implements it on real ones,
// tests on models. fd is borrowed for the call. Thread: the control thread only.
class SocketOps {
 public:
  virtual ~SocketOps() = default;

  // examine looks at a socket. Errors: EBADF, ENOTSOCK, and EOPNOTSUPP "Unsupported socket family
  // and type" (kSockFd) for anything but TCP over IPv4 or IPv6.
  virtual Result<SocketInfo> examine(int fd) = 0;

  // rx_attach gives the socket its Rx association, under the socket lock. Errors, in this order:
  // ENOTCONN "Socket must be in established state", EBUSY "Socket already has PSP state", EINVAL
  // "Socket has incompatible state" (another user of decryption, such as kTLS). Whatever it
  // returns, the core names kSockFd as the bad attribute, as the kernel does.
  virtual Result<void> rx_attach(int fd, const Association& association) = 0;

  // tx_attach switches the socket to its Tx key, under the socket lock: from its success on, no
  // unauthenticated octet is delivered and every octet written is sealed. Errors: ENOTCONN as
  // above; EBUSY "Socket has incompatible segments already in the recv queue". No attribute.
  // EIO: it is not known whether the socket is switched; without its key it is silent then, and
  // another call finds out. Whatever it throws, the socket is not switched.
  virtual Result<TxSwitch> tx_attach(int fd, const Association& association) = 0;
};

// AssocRequest is an rx-assoc or tx-assoc as it came; absent means absent in the message.
struct AssocRequest {
  std::optional<int>
      fd;  // the received descriptor; -1 if sock-fd named one that did not come along
  std::optional<std::uint32_t> dev_id;
  std::optional<Version> version;
  struct Keys {
    std::optional<std::uint32_t> spi;
    std::optional<std::span<const std::uint8_t>> key;
  };
  std::optional<Keys> tx_key;  // tx-assoc only
};

// NetdevOps is what dev-assoc needs to know of and do to the host; host::Devices implements it,
// tests fake it. Thread: the control thread only.
class NetdevOps {
 public:
  virtual ~NetdevOps() = default;

  // netns_of is the namespace that `nsid` means in the namespace `caller_netns`. Errors: EINVAL if
  // it means none.
  virtual Result<std::uint64_t> netns_of(std::uint64_t caller_netns, std::int32_t nsid) = 0;

  // nsid_of is the number of `netns`, which may be the same one, in the namespace `caller_netns`:
  // if it has none there, it is given one. -1: it cannot be given one.
  virtual std::int32_t nsid_of(std::uint64_t caller_netns, std::uint64_t netns) = 0;

  // attach makes the netdev use the device, which does not have it in its list yet. Errors: ENODEV
  // (kIfindex) if there is no such netdev, else the errno of what failed.
  virtual Result<void> attach(const Device& device, NetdevKey netdev) = 0;

  // detach undoes attach. Errors: EIO; all is as before then.
  virtual Result<void> detach(const Device& device, NetdevKey netdev) = 0;

  // abandon undoes attach as far as it can: the netdev may be gone already, and the device is.
  virtual void abandon(const Device& device, NetdevKey netdev) = 0;
};

// Compat is the kernel whose rules hold where they differ, oldest first.
enum class Compat : std::uint8_t {
  kLinux618,  // the first release: no capability; dumps do not look at attributes
  kLinux72,   // and 7.3: CAP_NET_ADMIN for dev-set and key-rotate; dumps refuse attributes
  kNetNext,  // associations on established sockets only; an associated namespace is told nothing of
             // netdevs, and that the device has left it
};

// RxAssocReply is the answer to rx-assoc.
struct RxAssocReply {
  std::uint16_t dev_id = 0;
  RxKey rx_key;
};

// DeviceStats is the answer to get-stats.
struct DeviceStats {
  std::uint64_t key_rotations = 0, stale_events = 0;
  DriverStats driver;
};

// Notifier hears what the family would notify, for every namespace that sees the device. Called on
// the control thread, inside the call that caused it, in the kernel's order.
class Notifier {
 public:
  virtual ~Notifier() = default;
  virtual void device_added(const Device&) {}
  virtual void device_removed(const Device&) {}
  virtual void device_changed(const Device&) {}
  // device_left tells that the device has lost its last netdev in a namespace other than its own,
  // after device_changed for the others; Linux 7.3 has no such notification.
  virtual void device_left(const Device&, std::uint64_t /*netns*/) {}
  virtual void key_rotated(const Device&) {}
};

// CoreOptions are what a core begins with.
struct CoreOptions {
  Limits limits{};
  Compat compat = Compat::kLinux72;
  std::uint16_t first_id = 1;  // of devices
};

// Core is the rules, over a registry of devices and a table of associations. Thread: the control
// thread only.
class Core {
 public:
  // `sockets` and `netdevs` outlive the core. No `netdevs`: dev-assoc is EOPNOTSUPP.
  explicit Core(SocketOps& sockets, NetdevOps* netdevs = nullptr, const CoreOptions& options = {});
  // One that goes on where another stopped; for restore (snapshot.hh), which looks at the state
  // first.
  Core(SocketOps& sockets, NetdevOps* netdevs, const CoreOptions& options, const CoreState& state,
       const std::function<Driver*(std::uint16_t id)>& driver_of);
  ~Core();
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  // set_notifier: null for none.
  void set_notifier(Notifier* notifier);
  void set_compat(Compat compat) { compat_ = compat; }
  Compat compat() const { return compat_; }

  const DeviceRegistry& devices() const { return devices_; }
  const AssociationTable& associations() const { return associations_; }

  // add_device registers a device; ids are cyclic, up to 65535, not reused while associations
  // remain.
  // Errors: EINVAL if the driver offers no version or an unknown one; EEXIST if the netdev has a
  // device already (one netdev, one device); ENOSPC if all ids are in use.
  Result<std::uint16_t> add_device(NetdevKey netdev, std::string ifname, VersionSet cap,
                                   Driver& driver);
  // remove_device unregisters: notification first; its associations keep blocking their sockets,
  // their Tx keys are deleted, its associated netdevs are detached. Idempotent.
  void remove_device(std::uint16_t id);

  // set_versions is dev-set; no value means that the message carries no setting. Errors: ENODEV,
  // ENOENT (for callers in associated namespaces too), EINVAL with the kernel's texts, the
  // driver's. Always notifies on success.
  Result<void> set_versions(std::uint32_t id, std::optional<VersionSet> ena, Caller caller = {});
  // key_rotate returns the device. Associations under the previous device key become stale, those
  // under the active one survive until the next rotation. Errors: ENODEV, ENOENT as above, the
  // driver's; the generation proposed to a driver that failed counts as used, as in the kernel.
  Result<const Device*> key_rotate(std::uint32_t id, Caller caller = {});
  // drop_keys deletes all keys that there are, and makes new device keys: every association is
  // stale and revoked. For when they may be known to somebody else. Errors: the driver's; keys that
  // could not be replaced are in use.
  Result<void> drop_keys();
  // rx_assoc and tx_assoc check in the order of the kernel; the table is in docs/protocol.md. A
  // refused rx_assoc may have used up an SPI. Keys are those of the socket's namespace, and where
  // the device has no netdev it has none: EOPNOTSUPP (kSockFd). At the limits rx_assoc says ENOSPC
  // or EDQUOT (kSockFd), which the kernel does not.
  Result<RxAssocReply> rx_assoc(const AssocRequest& request, Caller caller = {});
  Result<void> tx_assoc(const AssocRequest& request, Caller caller = {});
  // device_of is the device that has secured the socket, or else that of its route. Errors: those
  // of SocketOps::examine; ENODEV.
  Result<std::uint16_t> device_of(int fd);
  Result<DeviceStats> stats(std::uint32_t id, Caller caller = {});

  // dev_assoc lets a netdev use the device of another one: its sockets are secured by that device.
  // `nsid` says where the netdev is, as the caller numbers it; none: in the caller's own namespace.
  // Errors, in this order: ENODEV, ENOENT; ENOSPC "Maximum number of associated devices reached";
  // ifindex missing; EPERM (kNsid) if a caller outside of the main namespace names one; EINVAL
  // (kNsid); ENODEV (kIfindex); EBUSY "Device already associated with a PSP device"; attach's.
  Result<void> dev_assoc(std::uint64_t caller_netns, std::uint32_t id,
                         std::optional<std::uint32_t> ifindex, std::optional<std::int32_t> nsid);
  // dev_disassoc undoes dev_assoc. Errors: as above but for ENOSPC and EBUSY; ENODEV (kIfindex) if
  // the netdev is not associated with that device; detach's. Sockets keep their associations and
  // are blocked.
  Result<void> dev_disassoc(std::uint64_t caller_netns, std::uint32_t id,
                            std::optional<std::uint32_t> ifindex, std::optional<std::int32_t> nsid);
  // netdev_gone is for an associated netdev that has disappeared from its namespace: as
  // dev_disassoc, with detach and notifications. Main netdevs go by remove_device.
  void netdev_gone(NetdevKey netdev);
  // nsid_of is NetdevOps::nsid_of.
  std::int32_t nsid_of(std::uint64_t caller_netns, std::uint64_t netns) const;

  // end notes that the connection of that socket is over: it cannot lose anything any more.
  void end(std::uint64_t cookie);
  // release forgets the association of a socket that is gone and deletes its Tx key. Idempotent.
  void release(std::uint64_t cookie);

 private:
  using Record = DeviceRecord;
  struct Target;  // what a request is about: socket and device

  Result<NetdevKey> find_netdev(const Record& record, std::uint64_t caller_netns,
                                std::optional<std::uint32_t> ifindex,
                                std::optional<std::int32_t> nsid);
  void disassociate(Record& record, NetdevKey netdev);
  static void revoke(const Record& record, Association& association);
  static void tell_if_unused(const Record& record, std::uint64_t netns);
  bool fit(const SocketInfo& socket) const;
  Result<Target> find_target(const AssocRequest& request, Caller caller);
  Result<void> give(const Target& target, Version version, Spi spi);
  Result<Association*> check_tx_socket(const Target& target, Version version);

  SocketOps& sockets_;
  NetdevOps* netdevs_;  // null: none
  Notifier nobody_;
  Notifier* notifier_ = &nobody_;
  Compat compat_;
  DeviceRegistry devices_;
  AssociationTable associations_;
};

}  // namespace psp::device
