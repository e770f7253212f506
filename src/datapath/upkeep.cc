// SPDX-License-Identifier: Apache-2.0
#include "upkeep.hh"

#include <algorithm>
#include <fmt/format.h>
#include <utility>

namespace psp::datapath {

void Condition::add(const Condition& other) {
  repairs += other.repairs;
  if (!trouble.empty() && !other.trouble.empty()) trouble += "; ";
  trouble += other.trouble;
}

std::optional<std::string> Upkeep::turn(std::chrono::steady_clock::time_point now, const Look& look,
                                        const PutBack& put_back) {
  if (now < not_before_) return std::nullopt;
  const Finding found = look();
  if (found && !*found) return well(now);
  const auto done = found ? put_back() : std::unexpected(found.error());
  not_before_ = now + pause_;
  pause_ = std::min(pause_ * 2, kLongestPause);
  if (done) {
    condition_.repairs++;
    condition_.trouble.clear();
    return fmt::format("{}; put back", **found);
  }
  const bool said = !condition_.trouble.empty();
  condition_.trouble =
      found ? fmt::format("{}, and cannot be put back: {}", **found, done.error()) : done.error();
  return said ? std::nullopt : std::optional(condition_.trouble);
}

// Somebody who insists may come again at once: only what lasts longer than the pause is peace.
std::optional<std::string> Upkeep::well(std::chrono::steady_clock::time_point now) {
  if (now >= not_before_ + pause_) pause_ = kFirstPause;
  const std::string was = std::exchange(condition_.trouble, {});
  if (was.empty()) return std::nullopt;
  return fmt::format("no longer: {}", was);
}

}  // namespace psp::datapath
