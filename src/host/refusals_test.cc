// SPDX-License-Identifier: Apache-2.0
//
// What an operator reads of refusals: whose they are, why, what to do, and how seldom. The errors
// here have the core's texts, since the reason is read from them. Time is a number: a minute of
// refusals takes no minute.
//
// That the core refuses, and when, is tested with it (core_assoc_test.cc).
#include "refusals.hh"

#include <cerrno>
#include <gtest/gtest.h>

namespace psp::host {
namespace {

using namespace std::chrono_literals;

constexpr device::Error kOfUser{EDQUOT, "Too many PSP associations of this user"};
constexpr device::Error kOfAll{ENOSPC, "Too many PSP associations"};
constexpr device::Error kSpis{ENOSPC, "SPI space exhausted"};

TEST(Refusals, SayWhoWhyAndWhatToDo) {
  Refusals refusals;
  const auto says = [&](const device::Error& error, const char* what) {
    const auto line = refusals.refuse(error, {.uid = 1000, .pid = 77, .owner = 1001}, {});
    return line && line->starts_with("rx-assoc of uid 1000, pid 77 refused") &&
           line->find(what) != std::string::npos;
  };
  EXPECT_TRUE(says(kOfUser, "uid 1001, or its container, has as many"));
  EXPECT_TRUE(says(kOfAll, "raise it and restart pspd"));
  EXPECT_TRUE(says(kSpis, "rotate"));
}

TEST(Refusals, AreALineAMinuteForEachCauseHoweverManyThereAre) {
  Refusals refusals;
  Refusals::TimePoint now{};
  EXPECT_TRUE(refusals.refuse(kOfUser, {}, now));
  for (int i = 0; i < 1000; i++) EXPECT_FALSE(refusals.refuse(kOfUser, {}, now += 50ms));
  EXPECT_TRUE(refusals.refuse(kOfAll, {}, now)) << "a user's hide no other's";
  const auto later = refusals.refuse(kOfUser, {}, now += 10s);
  ASSERT_TRUE(later);
  EXPECT_NE(later->find("(1000 more since"), std::string::npos) << *later;
  EXPECT_EQ(refusals.refuse(kOfAll, {}, now + 1min).value_or("").find("more since"),
            std::string::npos);
}

}  // namespace
}  // namespace psp::host
