// SPDX-License-Identifier: Apache-2.0
//
// EventLoop: sd-event with owners instead of reference counts and std::function instead of
// callbacks.
//
// What a program cannot start without is registered by on_readable, every and on_signal: see
// complete(). What comes later, for a client, is registered by the try_ functions. Want of memory
// in a callback ends that callback only.
//
// Threading: one thread, which runs it.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>

struct sd_event;
struct sd_event_source;

namespace psp {

class EventLoop {
 public:
  EventLoop();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Source keeps a registration alive.
  class Source {
   public:
    struct State;
    Source();
    explicit Source(std::unique_ptr<State> state);
    Source(Source&&) noexcept;
    Source& operator=(Source&&) noexcept;
    ~Source();

    // set_order: among the sources that are ready the one with the lowest order is called; 0, the
    // one of all that is never ordered, before all others. Nothing for an empty Source.
    void set_order(std::int64_t order);

    // enable(false) stops the calls until enable(true), which starts a timer's period anew. False:
    // the kernel had no memory to watch a descriptor with; timers and enable(false) do not fail.
    bool enable(bool on);

   private:
    std::unique_ptr<State> state_;
  };

  // on_readable calls back while `fd` is readable (or has hung up).
  [[nodiscard]] Source on_readable(int fd, std::function<void()> call);
  // every calls back each `period`.
  [[nodiscard]] Source every(std::chrono::milliseconds period, std::function<void()> call);
  // on_signal takes over a signal, which is blocked for the whole process.
  [[nodiscard]] Source on_signal(int signal, std::function<void()> call);
  // try_on_readable and try_every: as above, or the errno of why not.
  std::expected<Source, int> try_on_readable(int fd, std::function<void()> call) noexcept;
  std::expected<Source, int> try_every(std::chrono::milliseconds period,
                                       std::function<void()> call) noexcept;

  // complete: all that was to be registered before run is, but for the try_ functions; a loop that
  // is out of descriptors or memory at start is nothing to go on with. Later that ends the process.
  bool complete() const { return complete_; }

  // run goes on until stop. Returns stop's code. watchdog() feeds systemd's.
  int run();
  void stop(int code);
  void watchdog();

 private:
  Source needed(std::expected<Source, int> source);

  sd_event* event_ = nullptr;
  bool complete_ = true, running_ = false;
};

}  // namespace psp
