// SPDX-License-Identifier: Apache-2.0
//
// The lines that an operator reads when the maps of secured connections are full: one when the
// first client is refused, one with their number when it has been calm for long enough, whatever
// happens between. The test turns the clock by hand.
#include "room.hh"

#include <gtest/gtest.h>

namespace psp::kernel {
namespace {

using namespace std::chrono_literals;

TEST(Room, SaysOnceThatThereIsNoneAndOnceThatThereIsAgain) {
  Room room;
  Room::TimePoint now{};
  EXPECT_FALSE(room.news(now));
  room.refuse();
  const auto full = room.news(now += 1s);
  ASSERT_TRUE(full);
  EXPECT_NE(full->find("no room for another secured connection"), std::string::npos) << *full;
  for (int i = 0; i < 300; i++) {
    room.refuse();
    EXPECT_FALSE(room.news(now += 1s)) << "one line, whatever an insistent client does";
  }
  EXPECT_FALSE(room.news(now + Room::kCalm - 1s));
  const auto again = room.news(now += Room::kCalm);
  ASSERT_TRUE(again);
  EXPECT_NE(again->find("301 were refused"), std::string::npos) << *again;
  EXPECT_FALSE(room.news(now += 1h));
  room.refuse();
  EXPECT_TRUE(room.news(now += 1s));
  EXPECT_NE(room.news(now += Room::kCalm).value_or("").find("1 were refused"), std::string::npos);
}

}  // namespace
}  // namespace psp::kernel
