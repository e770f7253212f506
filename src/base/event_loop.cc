// SPDX-License-Identifier: Apache-2.0
//
// The loop over sd-event. A registration's address is what sd-event hands back to the callback; a
// timer is a one-shot that is armed anew at each call, so that its period begins when it was
// served.
#include "base/event_loop.hh"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <new>
#include <sys/epoll.h>
#include <systemd/sd-event.h>
#include <unistd.h>
#include <utility>

namespace psp {

namespace {

// State is one registration: its address goes through sd-event to the callback.
class State final : public Loop::Registration {
 public:
  ~State() override { sd_event_source_disable_unref(source); }
  void set_order(std::int64_t order) override { sd_event_source_set_priority(source, order); }
  bool enable(bool on) override {
    const bool timer = period_us != 0;
    if (on && timer) sd_event_source_set_time_relative(source, period_us);
    return sd_event_source_set_enabled(source, !on     ? SD_EVENT_OFF
                                               : timer ? SD_EVENT_ONESHOT
                                                       : SD_EVENT_ON) >= 0;
  }

  sd_event_source* source = nullptr;
  std::function<void()> call;
  std::uint64_t period_us = 0;
};

constexpr unsigned kRetryUs = 10'000;

int call_state(void* data) {
  try {
    // The callback may drop its own Source: keep what is being executed.
    const auto call = static_cast<State*>(data)->call;
    call();
  } catch (const std::bad_alloc&) {
    std::fputs("out of memory: what was being done is given up\n", stderr);
  }
  return 0;
}

int on_io(sd_event_source*, int, std::uint32_t, void* data) { return call_state(data); }
int on_signal_event(sd_event_source*, const signalfd_siginfo*, void* data) {
  return call_state(data);
}
int on_time(sd_event_source* source, std::uint64_t, void* data) {
  auto* state = static_cast<State*>(data);
  sd_event_source_set_time_relative(source, state->period_us);
  sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
  return call_state(data);
}

// registered makes a Source of what `add` registers; `add` returns a negative errno if it fails.
template <typename Add>
std::expected<Loop::Source, int> registered(std::function<void()>&& call, Add&& add) noexcept {
  try {
    auto state = std::make_unique<State>();
    state->call = std::move(call);
    if (const int result = add(*state); result < 0) return std::unexpected(-result);
    return Loop::Source(std::move(state));
  } catch (const std::bad_alloc&) {
    return std::unexpected(ENOMEM);
  }
}

}  // namespace

EventLoop::EventLoop() {
  if (sd_event_new(&event_) < 0) is_incomplete();
}

EventLoop::~EventLoop() { sd_event_unref(event_); }

std::expected<Loop::Source, int> EventLoop::try_on_readable(int fd,
                                                            std::function<void()> call) noexcept {
  return registered(std::move(call), [&](State& state) {
    return sd_event_add_io(event_, &state.source, fd, EPOLLIN, on_io, &state);
  });
}

std::expected<Loop::Source, int> EventLoop::try_every(std::chrono::milliseconds period,
                                                      std::function<void()> call) noexcept {
  return registered(std::move(call), [&](State& state) {
    state.period_us = static_cast<std::uint64_t>(period.count()) * 1000;
    // sd-event would join what is up to 250 ms apart: too coarse for the short ones.
    const std::uint64_t accuracy_us = std::max<std::uint64_t>(state.period_us / 4, 1);
    return sd_event_add_time_relative(event_, &state.source, CLOCK_MONOTONIC, state.period_us,
                                      accuracy_us, on_time, &state);
  });
}

Loop::Source EventLoop::on_signal(int signal, std::function<void()> call) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  return needed(registered(std::move(call), [&](State& state) {
    return sd_event_add_signal(event_, &state.source, signal, on_signal_event, &state);
  }));
}

std::chrono::nanoseconds EventLoop::processor_time() const {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

// run: sd-event takes memory for what has become ready. What it could not note then is still ready,
// or over, for timers, at the next look, which must not wait for anybody else.
int EventLoop::run() {
  set_running();
  std::uint64_t patience_us = UINT64_MAX;
  while (sd_event_get_state(event_) != SD_EVENT_FINISHED) {
    const int result = sd_event_run(event_, patience_us);
    patience_us = result == -ENOMEM ? kRetryUs : UINT64_MAX;
    if (result >= 0) continue;
    if (result != -ENOMEM) return result;
    std::fputs("out of memory: the event loop goes on a little later\n", stderr);
    ::usleep(kRetryUs);
  }
  int code = 0;
  return sd_event_get_exit_code(event_, &code) >= 0 ? code : 0;
}
void EventLoop::stop(int code) { sd_event_exit(event_, code); }
void EventLoop::watchdog() {
  if (sd_event_set_watchdog(event_, 1) < 0) is_incomplete();
}

}  // namespace psp
