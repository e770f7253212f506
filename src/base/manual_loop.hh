// SPDX-License-Identifier: Apache-2.0
//
// ManualLoop: a Loop that a test turns. Its time stands still until the test moves it on; then what
// comes due is called in order of time, and before each of these what is readable, by its order.
// Descriptors are real, so that what is tested has real sockets; that no time passes but the test's
// makes it the same each time.
//
// Threading: one thread.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "base/loop.hh"

namespace psp {

class ManualLoop final : public Loop {
 public:
  std::expected<Source, int> try_on_readable(int fd, std::function<void()> call) noexcept override;
  std::expected<Source, int> try_every(std::chrono::milliseconds period,
                                       std::function<void()> call) noexcept override;
  Clock::time_point now() const override { return now_; }
  std::chrono::nanoseconds processor_time() const override { return now_.time_since_epoch(); }

  // settle calls what is readable until nothing is; returns how many calls that took. It gives up
  // after kMaxCalls: whoever does not read what makes it readable would be called for ever.
  static constexpr std::size_t kMaxCalls = 100'000;
  std::size_t settle();
  // advance lets time pass.
  void advance(std::chrono::nanoseconds time);
  // refuse makes each further registration fail with this errno; 0: none.
  void refuse(int error) { refusal_ = error; }
  // stopped is the code of the first stop(), if there was one: the test goes on as it likes.
  std::optional<int> stopped() const { return stopped_; }
  void stop(int code) override {
    if (!stopped_) stopped_ = code;
  }
  // timers counts those that are enabled.
  std::size_t timers() const;

 private:
  struct Entry;
  struct Handle;
  std::expected<Source, int> add(Entry entry) noexcept;
  static void call(const std::shared_ptr<Entry>& entry);
  std::shared_ptr<Entry> next_readable();
  std::shared_ptr<Entry> next_due(Clock::time_point until) const;

  Clock::time_point now_{std::chrono::hours(1)};
  std::vector<std::shared_ptr<Entry>> entries_;
  int refusal_ = 0;
  std::optional<int> stopped_;
};

}  // namespace psp
