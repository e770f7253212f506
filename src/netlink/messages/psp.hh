// SPDX-License-Identifier: Apache-2.0
//
// The messages of Linux's `psp` family, their operations and policies (spec/psp.yaml). Who asks and
// who answers use the same structs; rx-assoc and tx-assoc are asked for by device::AssocRequest. A
// field that may be missing is an optional one: what must be there is the server's to demand, in
// the kernel's words. Keys are Secrets and are wiped with the struct. Used by Client and by the
// server's operations; key exchange and programs have the answers.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "crypto/secret.hh"
#include "device/core.hh"
#include "netlink/messages/message.hh"
#include "wire/types.hh"

namespace psp {

// Provider is who serves the family.
enum class Provider { kKernel, kDaemon };

// AssociatedNetdev is a netdev that uses the device of another one.
struct AssociatedNetdev {
  std::uint32_t ifindex = 0;  // in its own network namespace
  std::int32_t nsid = -1;     // that namespace as the caller numbers it; -1: the caller's own
};

// DeviceInfo is the answer to dev-get, and what comes with notifications of devices.
struct DeviceInfo {
  Provider provider = Provider::kDaemon;  // whose device it is; not in the message
  std::uint32_t id = 0;
  std::uint32_t ifindex = 0;  // of the main netdev; 0 if the caller is not in its namespace
  VersionSet versions_cap;
  VersionSet versions_ena;
  std::vector<AssociatedNetdev> associated;  // in the caller's namespace, if by_association
  bool by_association = false;  // the caller sees the device only by an associated netdev
};

// StatsInfo is the answer to get-stats.
struct StatsInfo {
  std::uint32_t dev_id = 0;
  std::uint64_t key_rotations = 0, stale_events = 0;
  std::uint64_t rx_packets = 0, rx_bytes = 0, rx_auth_fail = 0, rx_error = 0, rx_bad = 0;
  std::uint64_t tx_packets = 0, tx_bytes = 0, tx_error = 0;
};

// KeyInfo is an SPI and its key.
struct KeyInfo {
  Spi spi;
  crypto::SaKey key;
};

// RxAssocInfo is the answer to rx-assoc.
struct RxAssocInfo {
  std::uint32_t dev_id = 0;
  KeyInfo rx;
};

// Notification is one message of the groups `mgmt` and `use`.
struct Notification {
  enum class Kind { kDevAdd, kDevDel, kDevChange, kKeyRotate } kind = Kind::kDevAdd;
  DeviceInfo device;  // for kKeyRotate only the id
};

namespace netlink {

struct Family;

// DeviceRequest asks for something to be done to a device: dev-get, dev-set, key-rotate, dev-assoc
// and dev-disassoc, each with its own of these. key-rotate and its notification answer with the id.
struct DeviceRequest {
  std::optional<std::uint32_t> id = {};
  std::optional<VersionSet> versions_ena = {};
  std::optional<std::uint32_t> ifindex = {};
  std::optional<std::int32_t> nsid = {};
};

// StatsRequest is that of get-stats.
struct StatsRequest {
  std::optional<std::uint32_t> dev_id = {};
};

// command_of is the operation that a notification is; kind_of is the reverse, nullopt for those
// that are none.
std::uint8_t command_of(Notification::Kind kind);
std::optional<Notification::Kind> kind_of(std::uint8_t command);

// psp_family is all that the server must know of the family.
const Family& psp_family();

}  // namespace netlink
}  // namespace psp
