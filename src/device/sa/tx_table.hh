// SPDX-License-Identifier: Apache-2.0
//
// Tx keys of a device, found by handle.
//
//   handle = tag (8 bits, 1..255) | index (24 bits); 0 is never a handle
//
// The tag tells the tenants of a slot apart, so that a stale handle finds nothing instead of
// another connection's key. Freed slots are reused oldest first and only once kReuseAfter are free.
//
// Threading: add, del and set_clear_boundary on the control thread; read and sequence on any thread
// at any time, without lock. A slot is a seqlock: its sequence number is odd while it is being
// written and never returns to an earlier value. All words are atomics; words are written with
// release and read with acquire order, which is what makes a torn read show in the sequence number
// (there is no fence, so that ThreadSanitizer can follow). Chunks are published by their atomic
// pointer and live as long as the table.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "crypto/secret.hh"
#include "device/saved.hh"
#include "wire/types.hh"

namespace psp::device {

// TxEntry is a Tx key as the packet path needs it.
struct TxEntry {
  std::uint64_t sequence = 0;  // of its slot when it was read: unchanged means still valid
  Version version = Version::kAesGcm128;
  Spi spi;
  bool has_clear_boundary = false;
  std::uint32_t clear_boundary = 0;
  crypto::SaKey key;
};

// HandleQueue are handles that wait to be used again, in the order in which they came. Its room is
// made before it is needed: to give a key back must not take memory.
class HandleQueue {
 public:
  // make_room: so many fit from now on. May throw std::bad_alloc; all is as before then.
  void make_room(std::size_t handles);
  void push(std::uint32_t handle) noexcept;  // there is room
  std::uint32_t pop() noexcept;              // there is one
  std::size_t size() const { return size_; }
  std::uint32_t operator[](std::size_t i) const { return ring_[(first_ + i) % ring_.size()]; }

 private:
  std::vector<std::uint32_t> ring_;
  std::size_t first_ = 0, size_ = 0;
};

// TxTable is the table.
class TxTable {
 public:
  static constexpr std::uint32_t kIndexBits = 24;
  static constexpr std::uint32_t kIndexMask = (1u << kIndexBits) - 1;
  static constexpr std::uint32_t kChunkSlots = 1024;
  static constexpr std::uint32_t kReuseAfter = 1024;

  // `max_slots` is for tests of the end of the space.
  explicit TxTable(std::uint32_t max_slots = kIndexMask + 1);
  // One that has these slots, with their sequence numbers, and these free handles.
  TxTable(std::span<const SavedSlot> slots, std::span<const std::uint32_t> free);
  ~TxTable();
  // save appends what the table has. Control thread.
  void save(WipedList<SavedSlot>& slots, std::vector<std::uint32_t>& free) const;
  TxTable(const TxTable&) = delete;
  TxTable& operator=(const TxTable&) = delete;

  // add stores a key and returns its handle, or nothing if all slots are taken. Control thread.
  std::optional<std::uint32_t> add(Version version, Spi spi, std::span<const std::uint8_t> key);
  // del wipes a key; its handle is unknown from then on. Unknown handles are ignored.
  void del(std::uint32_t handle) noexcept;
  // set_clear_boundary: see TxSession. Unknown handles are ignored.
  void set_clear_boundary(std::uint32_t handle, std::uint32_t sequence);

  // sequence is that of the handle's slot, 0 if there never was such a slot. One load.
  std::uint64_t sequence(std::uint32_t handle) const;
  // read copies the entry of `handle`; false if there is none.
  bool read(std::uint32_t handle, TxEntry& entry) const;

 private:
  // One cache line. Words: 0 = handle << 32 | flags, version; 1 = SPI << 32 | boundary; 2..5 = key.
  static constexpr std::size_t kWords = 6;
  struct alignas(64) Slot {
    std::atomic<std::uint64_t> sequence{0};
    std::array<std::atomic<std::uint64_t>, kWords> words{};
  };
  using Words = std::array<std::uint64_t, kWords>;

  Slot* find_slot(std::uint32_t handle) const;
  // find_tenant is the slot if `handle` lives in it. Control thread.
  Slot* find_tenant(std::uint32_t handle) const;
  std::optional<std::uint32_t> take_handle();
  Slot& next_slot();
  static void write(Slot& slot, const Words& words);

  std::uint32_t max_slots_;
  std::uint32_t used_slots_ = 0;                  // control thread
  HandleQueue free_;                              // next handles, control thread
  std::vector<std::unique_ptr<Slot[]>> storage_;  // owns the chunks, control thread
  std::unique_ptr<std::atomic<Slot*>[]> chunks_;  // what readers see
};

}  // namespace psp::device
