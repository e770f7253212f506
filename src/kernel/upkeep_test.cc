// SPDX-License-Identifier: Apache-2.0
//
// What is put back and when, what is said of it and how often, against somebody who changes it
// again and again. The time is given: no test waits for it. The thing looked after is a sentence
// that the test sets; the oracle is the number of looks and of lines, for a rival must cost little
// of both. That pspd looks after what it made on a host in this way: tests/netns/care_test.cc.
#include "upkeep.hh"

#include <gtest/gtest.h>

namespace psp::kernel {
namespace {

using namespace std::chrono_literals;

// Thing is what is looked after, and its rival.
class UpkeepTest : public testing::Test {
 protected:
  std::optional<std::string> turn(std::chrono::milliseconds later = 0ms) {
    now_ += later;
    return upkeep_.turn(
        now_,
        [this]() -> Finding {
          looks_++;
          return found_;
        },
        [this]() -> std::expected<void, std::string> {
          if (!possible_) return std::unexpected("not today");
          found_ = std::nullopt;
          return {};
        });
  }
  // insist breaks it again at once, for so long; how many lines that costs.
  int insist(std::chrono::milliseconds duration) {
    int lines = 0;
    for (auto left = duration; left > 0ms; left -= 1ms) {
      found_ = "it is down";
      lines += turn(1ms).has_value();
    }
    return lines;
  }

  Upkeep upkeep_;
  Finding found_ = std::nullopt;
  bool possible_ = true;
  int looks_ = 0;
  std::chrono::steady_clock::time_point now_{1h};
};

TEST_F(UpkeepTest, PutsBackAtOnceAndSaysSoOnce) {
  EXPECT_EQ(turn(), std::nullopt);
  found_ = "it is down";
  EXPECT_EQ(turn(), "it is down; put back");
  EXPECT_EQ(turn(1s), std::nullopt);
  EXPECT_EQ(upkeep_.condition().repairs, 1u);
  EXPECT_EQ(upkeep_.condition().trouble, "");
}

TEST_F(UpkeepTest, SaysOnceThatItCannotAndOnceThatAllIsWellAgain) {
  found_ = "it is down";
  possible_ = false;
  EXPECT_EQ(turn(), "it is down, and cannot be put back: not today");
  for (int i = 0; i < 100; i++) EXPECT_EQ(turn(1s), std::nullopt);
  EXPECT_EQ(upkeep_.condition().trouble, "it is down, and cannot be put back: not today");
  EXPECT_EQ(upkeep_.condition().repairs, 0u);
  found_ = std::nullopt;
  EXPECT_EQ(turn(1min), "no longer: it is down, and cannot be put back: not today");
  EXPECT_EQ(upkeep_.condition().trouble, "");
}

TEST_F(UpkeepTest, PutsNothingBackThatItCannotSee) {
  found_ = std::unexpected("out of memory");
  EXPECT_EQ(turn(), "out of memory");
  EXPECT_EQ(upkeep_.condition().repairs, 0u);
  EXPECT_EQ(upkeep_.condition().trouble, "out of memory");
  EXPECT_FALSE(found_) << "nothing was put back";
}

TEST_F(UpkeepTest, WaitsTwiceAsLongEachTimeWhileSomebodyInsists) {
  EXPECT_EQ(insist(10min), 28) << "10 while the pauses double, then one each half minute";
  EXPECT_EQ(looks_, 28) << "and no look between";
  possible_ = false;
  EXPECT_EQ(insist(10min), 1);
}

TEST_F(UpkeepTest, IsQuickAgainAfterPeace) {
  insist(10min);
  found_ = std::nullopt;
  EXPECT_EQ(turn(30s), std::nullopt);
  EXPECT_EQ(turn(31s), std::nullopt);
  found_ = "it is down";
  EXPECT_EQ(turn(1s), "it is down; put back");
  found_ = "it is down";
  EXPECT_EQ(turn(100ms), "it is down; put back");
}

TEST_F(UpkeepTest, ARivalWithPatienceCostsTwentyLinesAMinute) {
  int lines = 0, summed = 0;
  for (std::chrono::milliseconds left = 10min; left > 0ms; left -= 400ms) {
    turn(300ms);  // it has lasted: the next pause is a short one
    found_ = "it is down";
    const std::string last = turn(100ms).value_or("");
    lines += !last.empty();
    ASSERT_FALSE(found_->has_value()) << "put back all the same";
    summed += last.contains("more lines since");
  }
  EXPECT_LE(lines, 10 * 20 + 20);
  EXPECT_GE(summed, 9) << "and how many more they were is told each minute";
  EXPECT_GT(upkeep_.condition().repairs, 1000u);
}

}  // namespace
}  // namespace psp::kernel
