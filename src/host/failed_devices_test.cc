// SPDX-License-Identifier: Apache-2.0
//
// Which failed devices are to be ended and when: the time is given, and ending is the test's word.
// That Devices keeps to it, with a TAP that goes and no descriptors to end its device with:
// host_test.cc.
#include "failed_devices.hh"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace psp::host {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

TEST(FailedDevices, AreDueAtOnceAndWhenTheyCannotBeEndedAfterPausesThatGrow) {
  FailedDevices failed;
  FailedDevices::Time now{};
  EXPECT_THAT(failed.due(now), IsEmpty());
  failed.add(1, "psp0 has gone");
  EXPECT_THAT(failed.due(now), ElementsAre(Pair(1, "psp0 has gone")));
  for (const auto pause : {100ms, 200ms, 400ms}) {
    (void)failed.put_off(1, "no descriptors", now);
    EXPECT_THAT(failed.due(now + pause - 1ms), IsEmpty());
    EXPECT_THAT(failed.due(now += pause), ElementsAre(Pair(1, "psp0 has gone")));
  }
}

TEST(FailedDevices, StayFailedUntilTheyAreEndedWhoeverHasLeft) {
  FailedDevices failed;
  failed.add(1, "somebody else has attached to psp0");
  (void)failed.put_off(1, "no memory", {});
  // He is not seen there any more: nobody adds it again.
  EXPECT_TRUE(failed.contains(1));
  EXPECT_THAT(failed.due(FailedDevices::Time{1h}),
              ElementsAre(Pair(1, "somebody else has attached to psp0")));
  failed.erase(1);
  EXPECT_FALSE(failed.contains(1));
  EXPECT_THAT(failed.due(FailedDevices::Time{1h}), IsEmpty());
}

TEST(FailedDevices, HaveEachObstacleToldOnce) {
  FailedDevices failed;
  failed.add(1, "psp0 has gone");
  EXPECT_TRUE(failed.put_off(1, "no descriptors", {}));
  failed.add(1, "psp0 has gone");
  EXPECT_FALSE(failed.put_off(1, "no descriptors", {})) << "it was seen again, and is not new";
  EXPECT_TRUE(failed.put_off(1, "no memory", {}));
  EXPECT_FALSE(failed.put_off(2, "no memory", {})) << "that one has not failed";
}

}  // namespace
}  // namespace psp::host
