// SPDX-License-Identifier: Apache-2.0
//
// Schedule: virtual time. What is to happen, in the order of its time and, at one time, of its
// coming. Nothing waits: the time is that of the event which runs.
//
// So TIME_WAIT costs nothing, and two runs of a seed are the same to the event. An event cannot be
// taken back: who may be gone by then looks for himself (a weak pointer, a number that has moved
// on).
#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

namespace psp::sim {

using Time = std::uint64_t;  // nanoseconds
inline constexpr Time kMicrosecond = 1000, kMillisecond = 1000 * kMicrosecond,
                      kSecond = 1000 * kMillisecond;

class Schedule {
 public:
  explicit Schedule(Time start) : now_(start) {}

  Time now() const { return now_; }
  bool empty() const { return events_.empty(); }
  std::uint64_t done() const { return done_; }
  Time next() const { return events_.top().at; }

  void after(Time delay, std::function<void()> what) {
    events_.push({now_ + delay, number_++, std::move(what)});
  }
  // step runs the next event. There is one.
  void step() {
    Event event = std::move(const_cast<Event&>(events_.top()));
    events_.pop();
    now_ = event.at;
    ++done_;
    event.what();
  }

 private:
  struct Event {
    Time at;
    std::uint64_t number;
    std::function<void()> what;
    bool operator<(const Event& other) const {
      return at != other.at ? at > other.at : number > other.number;
    }
  };
  Time now_;
  std::uint64_t number_ = 0, done_ = 0;
  std::priority_queue<Event> events_;
};

}  // namespace psp::sim
