// SPDX-License-Identifier: Apache-2.0
//
// Tx keys of a device; the rules are in tx_table.hh. A writer makes the slot's number odd, stores
// all words and makes it even again; a reader that saw an odd or another number reads again, and
// gives way to a writer that was preempted. Slots come in chunks that never move, as readers have
// pointers to them. A key passes over the stack and is wiped there; a freed slot is overwritten
// with zeros, the whole table when it goes.
//
// Threading: see tx_table.hh.
#include "device/sa/tx_table.hh"

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

namespace psp::device {
namespace {

constexpr std::uint64_t kLive = 1u << 8;
constexpr std::uint64_t kHasBoundary = 1u << 9;
constexpr std::uint64_t kVersionMask = 0xff;
constexpr unsigned kTagShift = TxTable::kIndexBits;
constexpr std::uint32_t kMaxTag = 0xff;

std::uint32_t next_tenant(std::uint32_t handle) {
  const std::uint32_t tag = handle >> kTagShift;
  const std::uint32_t next = tag == kMaxTag ? 1 : tag + 1;
  return next << kTagShift | (handle & TxTable::kIndexMask);
}

}  // namespace

void HandleQueue::make_room(std::size_t handles) {
  if (handles <= ring_.size()) return;
  std::vector<std::uint32_t> larger(std::max(handles, 2 * ring_.size()));
  for (std::size_t i = 0; i < size_; ++i) larger[i] = (*this)[i];
  ring_ = std::move(larger);
  first_ = 0;
}

void HandleQueue::push(std::uint32_t handle) noexcept {
  ring_[(first_ + size_++) % ring_.size()] = handle;
}

std::uint32_t HandleQueue::pop() noexcept {
  const std::uint32_t handle = ring_[first_];
  first_ = (first_ + 1) % ring_.size();
  --size_;
  return handle;
}

TxTable::TxTable(std::uint32_t max_slots)
    : max_slots_(max_slots),
      chunks_(std::make_unique<std::atomic<Slot*>[]>((kIndexMask + 1) / kChunkSlots)) {}

TxTable::TxTable(std::span<const SavedSlot> slots, std::span<const std::uint32_t> free)
    : TxTable() {
  for (const SavedSlot& saved : slots) {
    Slot& slot = next_slot();
    if (saved.handle != 0) {
      Words words{};
      words[0] = std::uint64_t{saved.handle} << 32 | kLive | saved.version |
                 (saved.has_boundary != 0 ? kHasBoundary : 0);
      words[1] = std::uint64_t{saved.spi} << 32 | saved.boundary;
      std::memcpy(&words[2], saved.key.data(), saved.key.size());
      write(slot, words);
      explicit_bzero(words.data(), sizeof words);
    }
    slot.sequence.store(saved.sequence, std::memory_order_release);
  }
  free_.make_room(free.size());
  for (const std::uint32_t handle : free) free_.push(handle);
}

void TxTable::save(WipedList<SavedSlot>& slots, std::vector<std::uint32_t>& free) const {
  slots.reserve(slots.size() + used_slots_);
  for (std::uint32_t index = 0; index < used_slots_; ++index) {
    const Slot& slot = *find_slot(index);
    SavedSlot& saved = slots.emplace_back();
    saved.sequence = slot.sequence.load(std::memory_order_relaxed);
    Words words;
    for (std::size_t i = 0; i < kWords; ++i)
      words[i] = slot.words[i].load(std::memory_order_relaxed);
    if ((words[0] & kLive) != 0) {
      saved.handle = static_cast<std::uint32_t>(words[0] >> 32);
      saved.spi = static_cast<std::uint32_t>(words[1] >> 32);
      saved.boundary = static_cast<std::uint32_t>(words[1]);
      saved.version = static_cast<std::uint8_t>(words[0] & kVersionMask);
      saved.has_boundary = (words[0] & kHasBoundary) != 0;
      std::memcpy(saved.key.data(), &words[2], saved.key.size());
    }
    explicit_bzero(words.data(), sizeof words);
  }
  for (std::size_t i = 0; i < free_.size(); ++i) free.push_back(free_[i]);
}

TxTable::~TxTable() {
  for (auto& chunk : storage_)
    explicit_bzero(static_cast<void*>(chunk.get()), kChunkSlots * sizeof(Slot));
}

TxTable::Slot* TxTable::find_slot(std::uint32_t handle) const {
  const std::uint32_t index = handle & kIndexMask;
  Slot* chunk = chunks_[index / kChunkSlots].load(std::memory_order_acquire);
  return chunk != nullptr ? &chunk[index % kChunkSlots] : nullptr;
}

TxTable::Slot* TxTable::find_tenant(std::uint32_t handle) const {
  Slot* slot = find_slot(handle);
  if (slot == nullptr) return nullptr;
  const std::uint64_t word = slot->words[0].load(std::memory_order_relaxed);
  return (word & kLive) != 0 && word >> 32 == handle ? slot : nullptr;
}

void TxTable::write(Slot& slot, const Words& words) {
  const std::uint64_t sequence = slot.sequence.load(std::memory_order_relaxed);
  slot.sequence.store(sequence + 1, std::memory_order_relaxed);
  for (std::size_t i = 0; i < kWords; ++i) slot.words[i].store(words[i], std::memory_order_release);
  slot.sequence.store(sequence + 2, std::memory_order_release);
}

std::optional<std::uint32_t> TxTable::take_handle() {
  const bool space = used_slots_ < max_slots_;
  if (free_.size() != 0 && (free_.size() > kReuseAfter || !space)) return free_.pop();
  if (!space) return std::nullopt;
  const std::uint32_t index = used_slots_;
  next_slot();
  return 1u << kTagShift | index;
}

// next_slot is the first that was never used, and is used now. All that will ever be needed to free
// it is taken here.
TxTable::Slot& TxTable::next_slot() {
  const std::uint32_t index = used_slots_;
  free_.make_room(index + 1);
  auto& chunk = chunks_[index / kChunkSlots];
  if (chunk.load(std::memory_order_relaxed) == nullptr) {
    storage_.push_back(std::make_unique<Slot[]>(kChunkSlots));
    chunk.store(storage_.back().get(), std::memory_order_release);
  }
  ++used_slots_;
  return chunk.load(std::memory_order_relaxed)[index % kChunkSlots];
}

std::optional<std::uint32_t> TxTable::add(Version version, Spi spi,
                                          std::span<const std::uint8_t> key) {
  if (key.size() != key_size(version)) return std::nullopt;
  const auto handle = take_handle();
  if (!handle) return std::nullopt;
  Words words{};
  words[0] = std::uint64_t{*handle} << 32 | kLive | static_cast<std::uint64_t>(version);
  words[1] = std::uint64_t{spi.value} << 32;
  std::memcpy(&words[2], key.data(), key.size());
  write(*find_slot(*handle), words);
  explicit_bzero(words.data(), sizeof words);
  return handle;
}

void TxTable::del(std::uint32_t handle) noexcept {
  Slot* slot = find_tenant(handle);
  if (slot == nullptr) return;
  write(*slot, Words{});
  free_.push(next_tenant(handle));
}

void TxTable::set_clear_boundary(std::uint32_t handle, std::uint32_t sequence) {
  Slot* slot = find_tenant(handle);
  if (slot == nullptr) return;
  Words words;
  for (std::size_t i = 0; i < kWords; ++i)
    words[i] = slot->words[i].load(std::memory_order_relaxed);
  words[0] |= kHasBoundary;
  words[1] = (words[1] & ~std::uint64_t{0xffff'ffff}) | sequence;
  write(*slot, words);
  explicit_bzero(words.data(), sizeof words);
}

std::uint64_t TxTable::sequence(std::uint32_t handle) const {
  const Slot* slot = find_slot(handle);
  return slot != nullptr ? slot->sequence.load(std::memory_order_acquire) : 0;
}

bool TxTable::read(std::uint32_t handle, TxEntry& entry) const {
  constexpr unsigned kSpins = 64;
  const Slot* slot = find_slot(handle);
  if (slot == nullptr) return false;
  Words words;
  std::uint64_t sequence = 0;
  for (unsigned tries = 1;; ++tries) {
    sequence = slot->sequence.load(std::memory_order_acquire);
    for (std::size_t i = 0; i < kWords; ++i)
      words[i] = slot->words[i].load(std::memory_order_acquire);
    if (sequence % 2 == 0 && slot->sequence.load(std::memory_order_relaxed) == sequence) break;
    // The writer is a dozen stores long; if it takes longer, it was preempted and wants the CPU.
    if (tries % kSpins == 0) std::this_thread::yield();
  }
  const bool found = (words[0] & kLive) != 0 && words[0] >> 32 == handle;
  if (found) {
    entry.sequence = sequence;
    entry.version = static_cast<Version>(words[0] & kVersionMask);
    entry.spi = Spi{static_cast<std::uint32_t>(words[1] >> 32)};
    entry.has_clear_boundary = (words[0] & kHasBoundary) != 0;
    entry.clear_boundary = static_cast<std::uint32_t>(words[1]);
    entry.key.assign({reinterpret_cast<const std::uint8_t*>(&words[2]), key_size(entry.version)});
  }
  explicit_bzero(words.data(), sizeof words);
  return found;
}

}  // namespace psp::device
