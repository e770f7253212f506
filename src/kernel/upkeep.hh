// SPDX-License-Identifier: Apache-2.0
//
// Upkeep: how pspd looks after something of its own that others on the host can change. It looks,
// puts back what is wrong, counts that, and waits longer each time while somebody insists, so that
// a rival costs little time and few lines of the log.
//
// Threading: the control thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <functional>
#include <optional>
#include <string>

#include "base/backoff.hh"

namespace psp::kernel {

// Finding is what is wrong, nothing if all is well. Errors: that it cannot be told, as a sentence.
using Finding = std::expected<std::optional<std::string>, std::string>;

// Condition is how often something was put back, and what is wrong now, if anything.
struct Condition {
  std::uint64_t repairs = 0;
  std::string trouble;

  void add(const Condition& other);
};

class Upkeep {
 public:
  using Look = std::function<Finding()>;
  using PutBack = std::function<std::expected<void, std::string>()>;

  // turn looks, and puts back what is wrong. What cannot be told is left as it is: it may be well.
  // Nothing is done before a pause is over. A sentence for the log if things have changed; of a
  // rival with the patience to wait for each pause kLinesAMinute of them, and then how many more.
  std::optional<std::string> turn(std::chrono::steady_clock::time_point now, const Look& look,
                                  const PutBack& put_back);

  const Condition& condition() const { return condition_; }

 private:
  std::optional<std::string> act(std::chrono::steady_clock::time_point now, const Look& look,
                                 const PutBack& put_back);
  std::optional<std::string> well(std::chrono::steady_clock::time_point now);

  static constexpr unsigned kLinesAMinute = 20;
  Backoff backoff_;
  std::chrono::steady_clock::time_point minute_{};  // when it began
  unsigned said_ = 0, unsaid_ = 0;                  // in it
  Condition condition_;
};

}  // namespace psp::kernel
