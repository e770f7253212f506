// SPDX-License-Identifier: Apache-2.0
//
// The Tx key table: handles, reuse, and readers that race with the control thread. A handle that is
// late must find nothing and never another connection's key, for 255 tenants of one slot. In the
// races each key is made of its SPI, so that a mixture of two shows; that a deleted key is found by
// no later read is the fail-closed promise of a closed socket.
//
// Threading: the last tests start threads of their own; run under ThreadSanitizer too.
#include "device/sa/tx_table.hh"

#include <algorithm>
#include <array>
#include <atomic>
#include <gtest/gtest.h>
#include <set>
#include <thread>
#include <vector>

namespace psp::device {
namespace {

using Key16 = std::array<std::uint8_t, 16>;
using Key32 = std::array<std::uint8_t, 32>;

Key32 key_of(std::uint8_t octet) {
  Key32 key;
  key.fill(octet);
  return key;
}

std::uint32_t add(TxTable& table, std::uint32_t spi, std::uint8_t octet = 1) {
  const Key32 key = key_of(octet);
  return table.add(Version::kAesGcm256, Spi{spi}, key).value();
}

TEST(TxTable, ReturnsWhatWasAdded) {
  TxTable table;
  Key16 short_key;
  short_key.fill(0x11);
  const Key32 long_key = key_of(0x22);
  const auto a = table.add(Version::kAesGmac128, Spi{0x8000'0001}, short_key).value();
  const auto b = table.add(Version::kAesGcm256, Spi{7}, long_key).value();
  TxEntry entry;
  ASSERT_TRUE(table.read(a, entry));
  EXPECT_EQ(entry.version, Version::kAesGmac128);
  EXPECT_EQ(entry.spi.value, 0x8000'0001u);
  EXPECT_FALSE(entry.has_clear_boundary);
  EXPECT_TRUE(std::ranges::equal(entry.key.span(), short_key));
  ASSERT_TRUE(table.read(b, entry));
  EXPECT_EQ(entry.version, Version::kAesGcm256);
  EXPECT_TRUE(std::ranges::equal(entry.key.span(), long_key));
}

TEST(TxTable, RefusesAKeyOfTheWrongLength) {
  TxTable table;
  EXPECT_FALSE(table.add(Version::kAesGcm128, Spi{1}, key_of(1)));
  EXPECT_FALSE(table.add(Version::kAesGcm256, Spi{1}, Key16{}));
  EXPECT_FALSE(table.add(Version::kAesGcm128, Spi{1}, {}));
}

TEST(TxTable, KeepsTheClearBoundary) {
  TxTable table;
  const auto handle = add(table, 1, 0x33);
  const auto before = table.sequence(handle);
  table.set_clear_boundary(handle, 0xfedc'ba98);
  TxEntry entry;
  ASSERT_TRUE(table.read(handle, entry));
  EXPECT_TRUE(entry.has_clear_boundary);
  EXPECT_EQ(entry.clear_boundary, 0xfedc'ba98u);
  EXPECT_EQ(entry.spi.value, 1u);
  EXPECT_TRUE(std::ranges::equal(entry.key.span(), key_of(0x33)));
  EXPECT_NE(table.sequence(handle), before) << "a cached session would miss the boundary";
  table.set_clear_boundary(handle, 5);
  ASSERT_TRUE(table.read(handle, entry));
  EXPECT_EQ(entry.clear_boundary, 5u);
}

TEST(TxTable, UnknownHandlesFindNothing) {
  TxTable table;
  TxEntry entry;
  EXPECT_FALSE(table.read(0, entry));
  const auto handle = add(table, 1);
  EXPECT_NE(handle, 0u);
  EXPECT_FALSE(table.read(0, entry));
  EXPECT_FALSE(table.read(handle ^ 1u << TxTable::kIndexBits, entry)) << "other tag";
  EXPECT_FALSE(table.read(handle + 1, entry)) << "slot never used";
  EXPECT_FALSE(table.read(handle + 5 * TxTable::kChunkSlots, entry)) << "no such chunk";
  EXPECT_FALSE(table.read(0xffff'ffff, entry));
  table.del(handle + 1);
  table.del(0);
  table.set_clear_boundary(0, 1);
  EXPECT_TRUE(table.read(handle, entry));
}

TEST(TxTable, StaleHandleNeverFindsTheNextTenant) {
  TxTable table(1);  // one slot: reused at once
  TxEntry entry;
  std::set<std::uint32_t> handles;
  std::uint32_t last = 0;
  for (int i = 0; i < 255; ++i) {
    const auto handle = add(table, 100 + i);
    EXPECT_NE(handle, 0u);
    EXPECT_TRUE(handles.insert(handle).second) << "tag repeats after " << i;
    EXPECT_FALSE(table.read(last, entry));
    table.del(last);  // a late deletion does not hit the new tenant
    table.set_clear_boundary(last, 1);
    ASSERT_TRUE(table.read(handle, entry));
    EXPECT_EQ(entry.spi.value, 100u + i);
    EXPECT_FALSE(entry.has_clear_boundary);
    table.del(handle);
    EXPECT_FALSE(table.read(handle, entry));
    last = handle;
  }
}

TEST(TxTable, DeletingTwiceFreesOnce) {
  TxTable table(2);
  const auto a = add(table, 1);
  table.del(a);
  table.del(a);
  const auto b = add(table, 2);
  const auto c = add(table, 3);
  EXPECT_NE(b & TxTable::kIndexMask, c & TxTable::kIndexMask);
  EXPECT_FALSE(table.add(Version::kAesGcm256, Spi{4}, key_of(1)));
}

TEST(HandleQueue, KeepsItsOrderWhenItGrows) {
  HandleQueue queue;
  std::uint32_t in = 0, out = 0;
  for (std::size_t room = 1; room < 100; ++room) {
    queue.make_room(room);
    while (queue.size() < room) queue.push(in++);
    for (std::size_t i = 0; i < room; ++i) ASSERT_EQ(queue[i], out + i);
    for (std::size_t i = 0; i <= room / 2; ++i) ASSERT_EQ(queue.pop(), out++);
  }
}

TEST(TxTable, ReusesSlotsOldestFirstAndLate) {
  TxTable table;
  const auto first = add(table, 1);
  table.del(first);
  std::uint32_t adds = 0;
  std::uint32_t handle;
  do {
    handle = add(table, 2);
    table.del(handle);
    ++adds;
  } while ((handle & TxTable::kIndexMask) != (first & TxTable::kIndexMask));
  EXPECT_GE(adds, TxTable::kReuseAfter);
  EXPECT_LE(adds, TxTable::kReuseAfter + 2) << "memory would grow with every connection";
  EXPECT_NE(handle, first);
}

TEST(TxTable, ReportsTheEndOfTheSpaceAndRecovers) {
  TxTable table(TxTable::kChunkSlots + 3);
  std::vector<std::uint32_t> handles;
  for (std::uint32_t i = 0; i < TxTable::kChunkSlots + 3; ++i) handles.push_back(add(table, i + 1));
  EXPECT_FALSE(table.add(Version::kAesGcm256, Spi{1}, key_of(1)));
  TxEntry entry;
  for (std::uint32_t i = 0; i < handles.size(); ++i) {
    ASSERT_TRUE(table.read(handles[i], entry));
    EXPECT_EQ(entry.spi.value, i + 1);
  }
  table.del(handles[5]);
  const auto again = add(table, 9);
  EXPECT_EQ(again & TxTable::kIndexMask, handles[5] & TxTable::kIndexMask);
  EXPECT_NE(again, handles[5]);
}

// churn lets the control thread replace the keys of `slots` slots while readers read them all.
// Every key is 32 times the low octet of its SPI, and so is the boundary: any mixture shows.
void churn(unsigned slots, unsigned rounds) {
  constexpr unsigned kReaders = 2;
  TxTable table(slots);
  std::vector<std::atomic<std::uint32_t>> handles(slots);
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> mixtures{0}, found{0};
  const auto reader = [&] {
    TxEntry entry;
    while (!stop.load(std::memory_order_relaxed))
      for (auto& shared : handles) {
        const std::uint32_t handle = shared.load(std::memory_order_acquire);
        if (!table.read(handle, entry)) continue;
        found.fetch_add(1, std::memory_order_relaxed);
        const auto octet = static_cast<std::uint8_t>(entry.spi.value);
        const bool same = std::ranges::equal(entry.key.span(), key_of(octet)) &&
                          (!entry.has_clear_boundary || entry.clear_boundary == entry.spi.value);
        if (!same || entry.sequence % 2 != 0) mixtures.fetch_add(1, std::memory_order_relaxed);
      }
  };
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < kReaders; ++i) threads.emplace_back(reader);
    for (std::uint32_t round = 1; round <= rounds || found.load() < rounds / 10; ++round) {
      auto& shared = handles[round % slots];
      const std::uint32_t old = shared.load(std::memory_order_relaxed);
      if (old != 0) table.del(old);
      const auto handle = add(table, round, static_cast<std::uint8_t>(round));
      shared.store(handle, std::memory_order_release);
      table.set_clear_boundary(handle, round);
    }
    stop.store(true);
  }
  EXPECT_EQ(mixtures.load(), 0u);
}

TEST(TxTable, ReadersNeverSeeAMixtureInManySlots) { churn(8, 20'000); }

TEST(TxTable, ReadersNeverSeeAMixtureInOneBusySlot) { churn(1, 200'000); }

TEST(TxTable, DeletionIsSeenByEveryLaterRead) {
  // The control thread deletes, then raises a flag; whoever saw the flag must not find the key.
  TxTable table;
  for (int round = 0; round < 200; ++round) {
    const auto handle = add(table, 1);
    std::atomic<bool> deleted{false};
    bool found_late = false;
    std::jthread reader([&] {
      TxEntry entry;
      while (!deleted.load(std::memory_order_acquire)) table.read(handle, entry);
      found_late = table.read(handle, entry);
    });
    table.del(handle);
    deleted.store(true, std::memory_order_release);
    reader.join();
    EXPECT_FALSE(found_late);
  }
}

}  // namespace
}  // namespace psp::device
