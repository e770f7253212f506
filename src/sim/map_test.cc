// SPDX-License-Identifier: Apache-2.0
//
// Maps have the errors of the kernel's: full, there already, not there. Programs decide by them
// what becomes of a packet, so a model that never is full would hide a whole branch.
//
// The oracle is bpf(2), as read by us. That the programs do the right thing with these errors is
// for the runs to show (the feature full_maps).
#include "map.hh"

#include <cerrno>
#include <gtest/gtest.h>

namespace psp::sim {
namespace {

TEST(MapTest, AHashTakesAsManyAsItHasRoomFor) {
  const auto map = Map::hash(4, 4, 2);
  for (const std::uint32_t key : {1u, 2u}) EXPECT_EQ(map->update(&key, &key, 0), 0);
  const std::uint32_t third = 3, first = 1;
  EXPECT_EQ(map->update(&third, &third, 0), -E2BIG);
  EXPECT_EQ(map->update(&first, &third, 0), 0);
  EXPECT_EQ(map->erase(&first), 0);
  EXPECT_EQ(map->update(&third, &third, 0), 0);
}

TEST(MapTest, FlagsSayWhetherThereMayBeOne) {
  const auto map = Map::hash(4, 4, 9);
  const std::uint32_t key = 1;
  EXPECT_EQ(map->update(&key, &key, 2), -ENOENT);
  EXPECT_EQ(map->update(&key, &key, 1), 0);
  EXPECT_EQ(map->update(&key, &key, 1), -EEXIST);
  EXPECT_EQ(map->erase(&key), 0);
  EXPECT_EQ(map->erase(&key), -ENOENT);
  EXPECT_EQ(map->lookup(&key), nullptr);
}

TEST(MapTest, AnArrayHasItsElementsFromTheStart) {
  const auto map = Map::array(8, 3);
  const std::uint32_t last = 2, beyond = 3;
  ASSERT_NE(map->lookup(&last), nullptr);
  EXPECT_EQ(map->lookup(&beyond), nullptr);
  EXPECT_EQ(map->update(&beyond, &last, 0), -E2BIG);
}

TEST(MapTest, AnElementStaysWhereItIsWhenOthersComeAndGo) {
  const auto map = Map::hash(4, 4, 1000);
  const std::uint32_t key = 500;
  map->update(&key, &key, 0);
  const void* there = map->lookup(&key);
  for (std::uint32_t i = 0; i < 400; ++i) map->update(&i, &i, 0);
  EXPECT_EQ(map->lookup(&key), there);
}

TEST(MapDeathTest, AFlagThatIsNotKnownAborts) {
  const auto map = Map::hash(4, 4, 9);
  const std::uint32_t key = 1;
  EXPECT_DEATH((void)map->update(&key, &key, 4), "");
}

}  // namespace
}  // namespace psp::sim
