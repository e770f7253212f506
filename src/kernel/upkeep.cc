// SPDX-License-Identifier: Apache-2.0
//
// The pause grows with each repair, and is the first again once what was repaired has lasted for
// longer than it (see Backoff).
//
// Threading: see upkeep.hh.
#include "upkeep.hh"

#include <fmt/format.h>
#include <utility>

namespace psp::kernel {

void Condition::add(const Condition& other) {
  repairs += other.repairs;
  if (!trouble.empty() && !other.trouble.empty()) trouble += "; ";
  trouble += other.trouble;
}

std::optional<std::string> Upkeep::turn(std::chrono::steady_clock::time_point now, const Look& look,
                                        const PutBack& put_back) {
  auto sentence = act(now, look, put_back);
  if (!sentence) return sentence;
  if (now - minute_ >= std::chrono::minutes(1)) {
    minute_ = now;
    said_ = 0;
  }
  if (said_ == kLinesAMinute) {
    unsaid_++;
    return std::nullopt;
  }
  said_++;
  if (const unsigned more = std::exchange(unsaid_, 0); more != 0)
    *sentence += fmt::format(" ({} more lines since this was last said)", more);
  return sentence;
}

std::optional<std::string> Upkeep::act(std::chrono::steady_clock::time_point now, const Look& look,
                                       const PutBack& put_back) {
  if (!backoff_.due(now)) return std::nullopt;
  const Finding found = look();
  if (found && !*found) return well(now);
  const auto done = found ? put_back() : std::unexpected(found.error());
  backoff_.tried(now);
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

std::optional<std::string> Upkeep::well(std::chrono::steady_clock::time_point now) {
  backoff_.held(now);
  const std::string was = std::exchange(condition_.trouble, {});
  if (was.empty()) return std::nullopt;
  return fmt::format("no longer: {}", was);
}

}  // namespace psp::kernel
