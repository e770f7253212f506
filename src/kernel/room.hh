// SPDX-License-Identifier: Apache-2.0
//
// Room: the maps of secured connections are full, or no longer. Who is refused sees it in the
// answer; an operator reads a line for each change, however many are refused.
//
// Threading: the control thread only. The time is given.
#pragma once

#include <chrono>
#include <cstdint>
#include <fmt/format.h>
#include <optional>
#include <string>

namespace psp::kernel {

class Room {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  // Without a refusal for that long there is room again.
  static constexpr std::chrono::seconds kCalm{60};

  void refuse() { refused_++; }
  std::uint64_t refused() const { return refused_; }

  // news is what has changed since it was asked last; to be asked every second or so.
  std::optional<std::string> news(TimePoint now) {
    if (refused_ != seen_) {
      const bool began = !full_;
      full_ = now;
      if (began) before_ = seen_;
      seen_ = refused_;
      if (!began) return std::nullopt;
      return "no room for another secured connection (--max-connections): tx-assoc is refused "
             "(ENOSPC) until some have been over for two minutes";
    }
    if (!full_ || now - *full_ < kCalm) return std::nullopt;
    full_.reset();
    return fmt::format("room for secured connections again, {} were refused", refused_ - before_);
  }

 private:
  std::uint64_t refused_ = 0, seen_ = 0, before_ = 0;
  std::optional<TimePoint> full_;  // when it was seen last
};

}  // namespace psp::kernel
