// SPDX-License-Identifier: Apache-2.0
//
// SPIs: once each, never reserved, and an error at the end of the space; and whose an SPI is that
// does not open. All that are given out are kept in a set, from several beginnings, among them
// those where the space goes round. The whole space of 2^31 is not walked through: a small one
// shows its end. That the word for an unknown SPI gets into the right counter: engine_test.cc.
#include "device/keys/spi_allocator.hh"

#include <cerrno>
#include <gtest/gtest.h>
#include <set>
#include <vector>

namespace psp::device {
namespace {

constexpr std::uint32_t kStarts[] = {1, 12345, Spi::kIndexMask - 50'000, Spi::kIndexMask};

TEST(SpiAllocator, NeverRepeatsUnderOneKeyAndIsNeverReserved) {
  for (unsigned phase : {0u, 1u})
    for (const std::uint32_t start : kStarts) {
      SpiAllocator spis(phase, start);
      std::set<Spi> seen;
      for (int i = 0; i < 100'000; ++i) {
        const auto spi = spis.allocate();
        ASSERT_TRUE(spi);
        EXPECT_TRUE(spi->valid());
        EXPECT_EQ(spi->phase(), phase);
        EXPECT_TRUE(seen.insert(*spi).second) << spi->value;
      }
    }
}

TEST(SpiAllocator, IsNotUsedUpByRequestsThatAreRefused) {
  for (const std::uint32_t start : kStarts) {
    SpiAllocator spis(1, start, 6);
    spis.take_back(Spi{0x8000'0000u | start});  // not handed out
    const Spi used = *spis.allocate();
    for (int i = 0; i < 100; i++) {
      const auto refused = spis.allocate();
      ASSERT_TRUE(refused);
      spis.take_back(used);  // not the last one
      spis.take_back(*refused);
    }
    EXPECT_EQ(spis.remaining(), 3u);
    for (int i = 0; i < 3; i++) EXPECT_TRUE(spis.allocate());
    EXPECT_FALSE(spis.allocate());
  }
}

TEST(SpiAllocator, HandsOutTheLastSpiAndThenReportsTheEnd) {
  for (unsigned phase : {0u, 1u}) {
    SpiAllocator spis(phase, 0x7fff'ffff, 2);
    EXPECT_EQ(spis.remaining(), 2u);
    EXPECT_EQ(spis.allocate()->value, 0x7fff'ffffu | phase << 31);
    EXPECT_EQ(spis.allocate()->value, 1u | phase << 31);
    EXPECT_EQ(spis.remaining(), 0u);
    for (int i = 0; i < 3; ++i) {  // and does not start again
      const auto refused = spis.allocate();
      ASSERT_FALSE(refused);
      EXPECT_EQ(refused.error().sys_errno, ENOSPC);
      EXPECT_STREQ(refused.error().text, "SPI space exhausted");
    }
  }
}

TEST(SpiAllocator, HasAllSpisButTheReservedOne) {
  for (const std::uint32_t first : {0u, 1u, 0x8000'0000u, 0xffff'ffffu})
    EXPECT_EQ(SpiAllocator(1, first).remaining(), (std::uint64_t{1} << 31) - 1);
  EXPECT_EQ(SpiAllocator(1, 0x8000'0000).allocate()->value, 0xffff'ffffu);
  EXPECT_EQ(SpiAllocator(0, 7, 0xffff'ffff).remaining(), (std::uint64_t{1} << 31) - 1);
}

TEST(SpiAllocator, TellsWhoseAnSpiIs) {
  for (const std::uint32_t start : kStarts) {
    auto spis = std::make_shared<SpiAllocator>(1, start);
    std::vector<Spi> retired, given;
    for (int i = 0; i < 3; ++i) retired.push_back(spis->allocate().value());
    spis = spis->next();
    retired.push_back(spis->allocate().value());
    spis = spis->next();
    EXPECT_EQ(spis->judge(retired.back()), Drop::STALE_KEY) << "before any is given out";
    for (int i = 0; i < 3; ++i) given.push_back(spis->allocate().value());
    for (const Spi spi : retired) EXPECT_EQ(spis->judge(spi), Drop::STALE_KEY) << start;
    for (const Spi spi : given) EXPECT_EQ(spis->judge(spi), Drop::AUTH_FAIL) << start;
    const std::uint32_t far = (start + 1'000'000'000u) & Spi::kIndexMask;
    EXPECT_EQ(spis->judge(Spi{Spi::kPhaseBit | far}), Drop::UNKNOWN_KEY) << start;
  }
}

}  // namespace
}  // namespace psp::device
