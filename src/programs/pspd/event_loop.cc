// SPDX-License-Identifier: Apache-2.0
#include "event_loop.hh"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <sys/epoll.h>
#include <systemd/sd-event.h>
#include <utility>

namespace psp {

struct EventLoop::Source::State {
  sd_event_source* source = nullptr;
  std::function<void()> call;
  std::uint64_t period_us = 0;

  ~State() { sd_event_source_disable_unref(source); }
};

EventLoop::Source::Source() = default;
EventLoop::Source::Source(std::unique_ptr<State> state) : state_(std::move(state)) {}
EventLoop::Source::Source(Source&&) noexcept = default;
EventLoop::Source& EventLoop::Source::operator=(Source&&) noexcept = default;
EventLoop::Source::~Source() = default;

void EventLoop::Source::set_order(std::int64_t order) {
  if (state_) sd_event_source_set_priority(state_->source, order);
}

bool EventLoop::Source::enable(bool on) {
  if (!state_) return true;
  const bool timer = state_->period_us != 0;
  if (on && timer) sd_event_source_set_time_relative(state_->source, state_->period_us);
  return sd_event_source_set_enabled(state_->source, !on     ? SD_EVENT_OFF
                                                     : timer ? SD_EVENT_ONESHOT
                                                             : SD_EVENT_ON) >= 0;
}

namespace {

using State = EventLoop::Source::State;

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
std::expected<EventLoop::Source, int> registered(std::function<void()>&& call, Add&& add) noexcept {
  try {
    auto state = std::make_unique<State>();
    state->call = std::move(call);
    if (const int result = add(*state); result < 0) return std::unexpected(-result);
    return EventLoop::Source(std::move(state));
  } catch (const std::bad_alloc&) {
    return std::unexpected(ENOMEM);
  }
}

}  // namespace

EventLoop::EventLoop() : complete_(sd_event_new(&event_) >= 0) {}

EventLoop::Source EventLoop::needed(std::expected<Source, int> source) {
  if (source) return std::move(*source);
  if (running_) {
    std::fprintf(stderr, "cannot watch an event: %s\n", std::strerror(source.error()));
    std::abort();
  }
  complete_ = false;
  return Source();
}

EventLoop::~EventLoop() { sd_event_unref(event_); }

std::expected<EventLoop::Source, int> EventLoop::try_on_readable(
    int fd, std::function<void()> call) noexcept {
  return registered(std::move(call), [&](State& state) {
    return sd_event_add_io(event_, &state.source, fd, EPOLLIN, on_io, &state);
  });
}

std::expected<EventLoop::Source, int> EventLoop::try_every(std::chrono::milliseconds period,
                                                           std::function<void()> call) noexcept {
  return registered(std::move(call), [&](State& state) {
    state.period_us = static_cast<std::uint64_t>(period.count()) * 1000;
    // sd-event would join what is up to 250 ms apart: too coarse for the short ones.
    const std::uint64_t accuracy_us = std::max<std::uint64_t>(state.period_us / 4, 1);
    return sd_event_add_time_relative(event_, &state.source, CLOCK_MONOTONIC, state.period_us,
                                      accuracy_us, on_time, &state);
  });
}

EventLoop::Source EventLoop::on_readable(int fd, std::function<void()> call) {
  return needed(try_on_readable(fd, std::move(call)));
}

EventLoop::Source EventLoop::every(std::chrono::milliseconds period, std::function<void()> call) {
  return needed(try_every(period, std::move(call)));
}

EventLoop::Source EventLoop::on_signal(int signal, std::function<void()> call) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  return needed(registered(std::move(call), [&](State& state) {
    return sd_event_add_signal(event_, &state.source, signal, on_signal_event, &state);
  }));
}

int EventLoop::run() {
  running_ = true;
  return sd_event_loop(event_);
}
void EventLoop::stop(int code) { sd_event_exit(event_, code); }
void EventLoop::watchdog() {
  if (sd_event_set_watchdog(event_, 1) < 0) complete_ = false;
}

}  // namespace psp
