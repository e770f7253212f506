// SPDX-License-Identifier: Apache-2.0
//
// Refusals: who could have no keys for want of room. Who asked sees it in the answer, and may be a
// program that nobody looks at; an operator reads a line for the first, and then at most one a
// minute for each cause, however many are refused.
//
// Threading: the control thread only. The time is given.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <sys/types.h>

#include "device/error.hh"

namespace psp::host {

class Refusals {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  static constexpr std::chrono::seconds kPause{60};

  struct Who {
    uid_t uid = 0;  // who asked
    pid_t pid = 0;
    uid_t owner = 0;  // of the socket: whose room it is
  };
  // refuse is the line that is due, if one is. `error` is that of rx-assoc: ENOSPC or EDQUOT.
  std::optional<std::string> refuse(const device::Error& error, const Who& who, TimePoint now);

 private:
  struct Cause {
    std::optional<TimePoint> said{};
    std::size_t unsaid = 0;
  };
  std::array<Cause, 3> causes_{};
};

}  // namespace psp::host
