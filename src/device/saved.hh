// SPDX-License-Identifier: Apache-2.0
//
// What a device and a core hold, as plain structs of fixed size: the next process of a host, a
// simulator or a test has the same by them (snapshot.hh). No pointers, no padding, all integers in
// the order of the host. Whoever changes one raises kSavedVersion.
//
// Those with keys stand in WipedList, whose memory is wiped before it is given back.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "crypto/secret.hh"
#include "device/driver.hh"
#include "device/sa/sa_id.h"

namespace psp::device {

inline constexpr std::uint16_t kSavedVersion = 1;

template <typename T>
using WipedList = std::vector<T, crypto::WipingAllocator<T>>;

// kSavedDrops is room for more reasons than there are, of the same layout.
inline constexpr std::size_t kSavedDrops = 64;

// --- a software device
// ----------------------------------------------------------------------------

// SavedSpis is a SpiAllocator.
struct SavedSpis {
  std::uint64_t before = 0;
  std::uint32_t first = 0, count = 0, given = 0;
  std::uint32_t reserved = 0;
};

// SavedDeviceKey is one of the two device keys with its SPIs. Secret.
struct SavedDeviceKey {
  std::array<std::uint8_t, 32> key{};
  SavedSpis spis;
  std::uint8_t generation = 0;
  std::uint8_t live = 0;
  std::array<std::uint8_t, 6> reserved{};
};

// SavedKeys is a KeyRing. Secret.
struct SavedKeys {
  std::array<SavedDeviceKey, 2> by_phase;
  std::uint64_t epoch = 0;
  std::uint32_t phase = 0;    // of the active one
  std::uint32_t enabled = 0;  // versions
};

// SavedSlot is a slot of a TxTable, at its index. Secret.
struct SavedSlot {
  std::uint64_t sequence = 0;
  std::uint32_t handle = 0;  // 0: nobody's
  std::uint32_t spi = 0, boundary = 0;
  std::uint8_t version = 0;
  std::uint8_t has_boundary = 0;
  std::array<std::uint8_t, 2> reserved{};
  std::array<std::uint8_t, 32> key{};
  std::uint64_t more = 0;
};

// SavedTotals are the counters of the engines of a driver.
struct SavedTotals {
  std::uint64_t rx_packets = 0, rx_bytes = 0, tx_packets = 0, tx_bytes = 0;
  std::array<std::uint64_t, kSavedDrops> drops{};
};

// SavedDriver is the part that a network namespace has in a device: a SoftwareDriver. Secret.
struct SavedDriver {
  std::uint64_t netns = 0;
  SavedKeys keys;
  SavedTotals totals;
  std::uint32_t slots = 0;  // so many of the device's list are its Tx table, ...
  std::uint32_t free = 0;   // ... so many of the other its free handles, in the order of their use
};

// SavedDevice is a SoftwareDevice without its drivers.
struct SavedDevice {
  std::uint64_t packet_numbers = 0;
  DriverStats stats_before{};  // of drivers that have gone
  std::array<std::uint64_t, kSavedDrops> drops_before{};
  std::uint32_t phase = 0, enabled = 0;
  std::uint8_t generation = 0;
  std::array<std::uint8_t, 7> reserved{};
};

// DeviceState is a SoftwareDevice. Drivers stand in the order of their namespaces.
struct DeviceState {
  SavedDevice device;
  WipedList<SavedDriver> drivers;
  WipedList<SavedSlot> slots;
  std::vector<std::uint32_t> free;
};

// --- a core
// ---------------------------------------------------------------------------------------

// SavedRegistry is a DeviceRegistry without its devices.
struct SavedRegistry {
  std::uint64_t epoch = 1;
  std::uint16_t last_id = 0;
  std::array<std::uint8_t, 6> reserved{};
};

// SavedRecord is a device as the core knows it, and how much of the lists behind it is its own.
struct SavedRecord {
  std::uint64_t netns = 0;
  std::uint64_t key_rotations = 0, stale_events = 0;
  std::uint32_t ifindex = 0;
  std::uint32_t versions_cap = 0, versions_ena = 0;
  std::uint32_t netdevs = 0;
  std::uint32_t active = 0, previous = 0, stale = 0;  // associations
  std::uint16_t id = 0;
  std::uint8_t generation = 0;
  std::uint8_t registered = 0;
  std::array<char, 16> ifname{};  // with its NUL
};

// SavedNetdev is one that is associated with a device.
struct SavedNetdev {
  std::uint64_t netns = 0;
  std::uint32_t ifindex = 0;
  std::uint32_t reserved = 0;
};

// SavedAssociation is an Association; its list says whether it is stale.
struct SavedAssociation {
  static constexpr std::uint32_t kRevoked = 1, kEnded = 2, kHasTx = 4;
  std::uint64_t cookie = 0;
  std::uint64_t netns = 0;
  psp_sa_id rx{};
  std::uint32_t ifindex = 0;
  std::uint32_t tx_spi = 0, tx_handle = 0;
  std::uint32_t uid = 0;
  std::uint32_t flags = 0;
};

// CoreState is a Core. Records stand in the order of their ids; netdevs and associations as the
// records count them, active, previous and stale ones behind each other.
struct CoreState {
  SavedRegistry registry;
  std::vector<SavedRecord> records;
  std::vector<SavedNetdev> netdevs;
  std::vector<SavedAssociation> associations;
};

template <typename... Saved>
inline constexpr bool kArePlain = (... && (std::is_trivially_copyable_v<Saved> &&
                                           std::has_unique_object_representations_v<Saved> &&
                                           sizeof(Saved) % 8 == 0));
static_assert(kArePlain<SavedSpis, SavedDeviceKey, SavedKeys, SavedSlot, SavedTotals, SavedDriver,
                        SavedDevice, SavedRegistry, SavedRecord, SavedNetdev, SavedAssociation>);

}  // namespace psp::device
