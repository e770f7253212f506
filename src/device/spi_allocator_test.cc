// SPDX-License-Identifier: Apache-2.0
//
// SPIs: once each, never reserved, and an error at the end of the space.
#include <cerrno>
#include <gtest/gtest.h>
#include <set>

#include <psp/device/software_driver.hh>

namespace psp::device {
namespace {

TEST(SpiAllocator, NeverRepeatsUnderOneKeyAndIsNeverReserved) {
  for (unsigned phase : {0u, 1u}) {
    SpiAllocator spis(phase);
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

TEST(SpiAllocator, HandsOutTheLastSpiAndThenReportsTheEnd) {
  for (unsigned phase : {0u, 1u}) {
    SpiAllocator spis(phase, 0x7fff'fffe);
    EXPECT_EQ(spis.remaining(), 2u);
    EXPECT_EQ(spis.allocate()->value, 0x7fff'fffeu | phase << 31);
    EXPECT_EQ(spis.allocate()->value, 0x7fff'ffffu | phase << 31);
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
  EXPECT_EQ(SpiAllocator(0).remaining(), (std::uint64_t{1} << 31) - 1);
  EXPECT_EQ(SpiAllocator(1, 0).remaining(), (std::uint64_t{1} << 31) - 1);
  EXPECT_EQ(SpiAllocator(1, 0x8000'0000).allocate()->value, 0x8000'0001u);
}

}  // namespace
}  // namespace psp::device
