// SPDX-License-Identifier: Apache-2.0
//
// Loop: what calls back when a descriptor is readable or time has passed. Whoever works on a loop
// has the time from it as well, so that no other clock is read above the layers that are given
// theirs. A program runs an EventLoop; a test turns a ManualLoop.
//
// What a program cannot start without is registered by on_readable and every, before the loop runs:
// see complete(). What comes later is registered by the try_ functions.
//
// Threading: one thread, which runs it.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <utility>

namespace psp {

class Loop {
 public:
  using Clock = std::chrono::steady_clock;

  Loop() = default;
  virtual ~Loop() = default;
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  // Registration is a loop's own part of a Source.
  class Registration {
   public:
    Registration() = default;
    virtual ~Registration() = default;
    Registration(const Registration&) = delete;
    Registration& operator=(const Registration&) = delete;
    virtual void set_order(std::int64_t order) = 0;
    virtual bool enable(bool on) = 0;
  };

  // Source keeps a registration alive.
  class Source {
   public:
    Source() = default;
    explicit Source(std::unique_ptr<Registration> registration)
        : registration_(std::move(registration)) {}

    // set_order: among the sources that are ready the one with the lowest order is called. Those
    // that are never ordered (0) come before the others (above 0), but leave each second turn to
    // them. Nothing for an empty Source.
    void set_order(std::int64_t order) {
      if (registration_) registration_->set_order(order);
    }
    // enable(false) stops the calls until enable(true), which starts a timer's period anew. False:
    // the kernel had no memory to watch a descriptor with; timers and enable(false) do not fail.
    bool enable(bool on) { return !registration_ || registration_->enable(on); }

   private:
    std::unique_ptr<Registration> registration_;
  };

  // try_on_readable calls back while `fd` is readable (or has hung up); try_every each `period`.
  // Errors: an errno.
  virtual std::expected<Source, int> try_on_readable(int fd,
                                                     std::function<void()> call) noexcept = 0;
  virtual std::expected<Source, int> try_every(std::chrono::milliseconds period,
                                               std::function<void()> call) noexcept = 0;
  // on_readable and every: as above; what fails is found by complete().
  [[nodiscard]] Source on_readable(int fd, std::function<void()> call) {
    return needed(try_on_readable(fd, std::move(call)));
  }
  [[nodiscard]] Source every(std::chrono::milliseconds period, std::function<void()> call) {
    return needed(try_every(period, std::move(call)));
  }
  // complete: all that was to be registered before run is, but for the try_ functions; a loop that
  // is out of descriptors or memory at start is nothing to go on with.
  bool complete() const { return complete_; }

  // stop ends the loop when what is being called returns; `code` is what its program is to hear.
  virtual void stop(int code) = 0;

  // now is the time of this call, not of the turn: turns are measured by it.
  virtual Clock::time_point now() const = 0;
  // processor_time is what this thread has had of a processor: what it waits for one is not in it.
  virtual std::chrono::nanoseconds processor_time() const = 0;

 protected:
  // needed aborts the program while the loop runs: that is a mistake of its author.
  Source needed(std::expected<Source, int> source);
  void is_incomplete() { complete_ = false; }
  void set_running() { running_ = true; }

 private:
  bool complete_ = true, running_ = false;
};

}  // namespace psp
