// SPDX-License-Identifier: Apache-2.0
//
// What a stop waits for: for the kernel, which lets go of programs and TAPs in some tens of
// milliseconds, and for the last packets of connections, if it ends any. Never for a fixed time
// besides.
//
// Threading: the test's thread.
#include <algorithm>
#include <array>
#include <chrono>
#include <gtest/gtest.h>
#include <iostream>

#include "fault_plan.hh"
#include "lab.hh"

namespace psp::lab {
namespace {

class Stop : public testing::Test {
 protected:
  void SetUp() override { PSP_NEEDS_LAB(); }
  void start(Lab& lab) {
    plan_.set();
    const UnderPlan under(plan_);
    lab.start(From::kA);
  }
  std::chrono::nanoseconds asked_to_sleep() const {
    return std::chrono::nanoseconds(plan_->asked_to_sleep);
  }
  std::chrono::nanoseconds blocked() const { return std::chrono::nanoseconds(plan_->blocked); }

  Plan plan_;
};

// What the kernel takes is not pspd's, and differs: the better half of the stops count, and the
// time in which pspd did not want a processor.
TEST_F(Stop, OfAnIdleDaemonWaitsForTheKernelOnly) {
  constexpr std::size_t kStops = 6;
  Lab lab;
  std::array<std::chrono::milliseconds, kStops> all;
  for (auto& one : all) {
    start(lab);
    EXPECT_EQ(lab.stop(From::kA), 0);
    EXPECT_EQ(asked_to_sleep(), 0ms);
    one = std::chrono::duration_cast<std::chrono::milliseconds>(blocked());
    EXPECT_GT(one, 0ms) << "it was not measured";
  }
  std::ranges::sort(all);
  EXPECT_LT(all[kStops / 2 - 1], 200ms);
  std::cout << "blocked for";
  for (const auto one : all) std::cout << " " << one.count();
  std::cout << " ms\n";
}

TEST_F(Stop, WaitsForTheLastPacketsIfItEndsAConnection) {
  Lab lab;
  lab.start(From::kB);
  start(lab);
  auto connection = lab.connect(Kind::kIpv4);
  secure(lab, connection);
  EXPECT_EQ(lab.stop(From::kA), 0);
  EXPECT_EQ(socket_error(connection.a.get()), ECONNABORTED);
  EXPECT_GT(asked_to_sleep(), 0ms);
  EXPECT_LE(asked_to_sleep(), 150ms);
}

}  // namespace
}  // namespace psp::lab
