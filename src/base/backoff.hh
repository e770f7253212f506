// SPDX-License-Identifier: Apache-2.0
//
// Backoff: when to try again what failed. The pauses double from 100 ms to 30 s, so that what goes
// on failing costs little time and few lines of the log.
//
// Threading: none of its own; the time is the caller's, so that a test can turn it.
#pragma once

#include <algorithm>
#include <chrono>

namespace psp {

class Backoff {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // due: the pause after the last try is over.
  bool due(Time now) const { return now >= not_before_; }
  // tried begins the next pause, which is twice as long as the last.
  void tried(Time now) {
    not_before_ = now + pause_;
    pause_ = std::min(pause_ * 2, kLongest);
  }
  // held tells that all has been well since the last try. What lasted longer than the pause is
  // peace, and the next pause is the first again; before that somebody who insists may be back.
  void held(Time now) {
    if (now >= not_before_ + pause_) pause_ = kFirst;
  }

 private:
  static constexpr std::chrono::milliseconds kFirst{100};
  static constexpr std::chrono::milliseconds kLongest{30'000};
  Time not_before_{};
  std::chrono::milliseconds pause_ = kFirst;
};

}  // namespace psp
