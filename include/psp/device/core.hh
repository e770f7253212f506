// SPDX-License-Identifier: Apache-2.0
//
// The PSP core: devices, associations and the rules of Linux's `psp` family, without netlink and
// without sockets. Everything the kernel does between its netlink front and its drivers is here, in
// its order of checks. Pure: sockets, drivers and listeners are given.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include <psp/device/driver.hh>
#include <psp/device/error.hh>
#include <psp/wire/types.hh>

namespace psp::device {

// SocketInfo is what the core must know of a socket before it decides.
struct SocketInfo {
  std::uint64_t cookie = 0;         // SO_COOKIE: identifies the socket for its whole life
  std::uint32_t route_ifindex = 0;  // netdev of the socket's cached route, 0 if it has none
  bool established = false;         // TCP_ESTABLISHED at that moment; the attach calls look again
};

// Association is one secured socket (the kernel's psp_assoc). It holds no Rx key: that is derived.
struct Association {
  std::uint64_t cookie = 0;
  std::uint16_t dev_id = 0;
  Version version = Version::kAesGcm128;
  std::uint8_t generation = 0;  // of the device key that rx_spi was handed out under
  bool stale = false;           // that device key is gone: nothing can match any more
  Spi rx_spi{};
  std::optional<Spi> tx_spi{};  // set once tx-assoc succeeded
  std::uint32_t tx_handle = 0;  // the driver's, valid with tx_spi
};

// SocketOps is what the core does to sockets; the datapath implements it on real ones, tests on
// models. fd is borrowed for the call. Thread: the control thread only.
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
  virtual Result<void> tx_attach(int fd, const Association& association) = 0;
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

// Device is one registered PSP device (the kernel's psp_dev).
struct Device {
  std::uint16_t id = 0;
  std::uint32_t ifindex = 0;
  std::string ifname;
  VersionSet versions_cap;
  DeviceConfig config{};
  std::uint8_t generation = 0;
  std::uint64_t key_rotations = 0;
  std::uint64_t stale_events = 0;
  Driver* driver = nullptr;  // outlives the device's registration
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

// Listener hears what the family would notify. Called on the control thread, inside the call that
// caused it, in the kernel's order.
class Listener {
 public:
  virtual ~Listener() = default;
  virtual void device_added(const Device&) {}
  virtual void device_removed(const Device&) {}
  virtual void device_changed(const Device&) {}
  virtual void key_rotated(const Device&) {}
  // association_stale tells of each association that a rotation has just made stale, before
  // key_rotated. The kernel has no such message; it is for whoever keeps a copy of associations.
  virtual void association_stale(const Association&) {}
};

// Core is the registry and the rules. Thread: the control thread only.
class Core {
 public:
  // `sockets` outlives the core.
  explicit Core(SocketOps& sockets);
  ~Core();
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  // set_listener: null for none.
  void set_listener(Listener* listener);

  // add_device registers a device; ids are cyclic, 1..65535, not reused while associations remain.
  // Errors: EINVAL if the driver offers no version or an unknown one; EEXIST if the netdev has a
  // device already (one netdev, one device); ENOSPC if all ids are in use.
  Result<std::uint16_t> add_device(std::uint32_t ifindex, std::string ifname, VersionSet cap,
                                   Driver& driver);
  // remove_device unregisters: notification first; its associations keep blocking their sockets,
  // their Tx keys are deleted.
  void remove_device(std::uint16_t id);

  // find_device: ENODEV if there is none of that id.
  Result<Device*> find_device(std::uint32_t id);
  std::vector<const Device*> devices() const;  // by id

  // set_versions is dev-set; no value means that the message carries no setting. Errors: ENODEV,
  // EINVAL with the kernel's texts, the driver's. Always notifies on success.
  Result<void> set_versions(std::uint32_t id, std::optional<VersionSet> ena);
  // key_rotate returns the device. Associations under the previous device key become stale, those
  // under the active one survive until the next rotation. Errors: ENODEV, the driver's; the
  // generation proposed to a driver that failed counts as used, as in the kernel.
  Result<const Device*> key_rotate(std::uint32_t id);
  // rx_assoc and tx_assoc check in the order of the kernel; the table is in docs/protocol.md. A
  // refused rx_assoc may have used up an SPI.
  Result<RxAssocReply> rx_assoc(const AssocRequest& request);
  Result<void> tx_assoc(const AssocRequest& request);
  Result<DeviceStats> stats(std::uint32_t id);

  // release forgets the association of a socket that is gone and deletes its Tx key. Idempotent.
  void release(std::uint64_t cookie);

  // find_association is the association of that socket, or null.
  const Association* find_association(std::uint64_t cookie) const;
  std::size_t association_count() const;
  // for_each_association visits all, in no order.
  void for_each_association(const std::function<void(const Association&)>& visit) const;

 private:
  struct Record;  // a device and the associations that hold on to its id
  struct Entry;   // where an association is kept
  struct Target;  // what a request is about: socket and device

  Record* find_record(std::uint32_t id);
  Record* find_record_by_ifindex(std::uint32_t ifindex);
  Result<Target> find_target(const AssocRequest& request);
  Result<Version> check_version(const Record& record, const AssocRequest& request) const;
  Result<Association*> check_tx_socket(const Target& target, Version version);
  void drop_record_if_unused(Record& record);

  SocketOps& sockets_;
  Listener* listener_;  // never null
  std::map<std::uint16_t, std::unique_ptr<Record>> records_;
  std::unordered_map<std::uint32_t, Record*> by_ifindex_;  // registered devices
  std::unordered_map<std::uint64_t, Entry> associations_;  // by cookie
  std::uint16_t last_id_ = 0;
};

}  // namespace psp::device
