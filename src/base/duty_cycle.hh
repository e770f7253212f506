// SPDX-License-Identifier: Apache-2.0
//
// DutyCycle: when a job may run again that is to have a part of the time only. A run leaves
// `others` times what it took to others, its own time among that, of which it may be ahead by
// `credit`: so it runs at once, unless it is long or wanted all the time. What is owed is counted
// from the end of what was owed before, so that who comes late loses nothing of his part.
//
// Threading: none of its own; the time is the caller's, so that a test can turn it.
#pragma once

#include <algorithm>
#include <chrono>

namespace psp {

class DutyCycle {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::nanoseconds;

  explicit constexpr DutyCycle(int others, Duration credit = {})
      : others_(others), credit_(credit) {}

  bool due(Time now) const { return now + credit_ >= after_; }
  void ran(Time start, Duration took) { after_ = std::max(after_, start) + others_ * took; }

 private:
  int others_;
  Duration credit_;
  Time after_{};  // what is before this is others' time
};

}  // namespace psp
