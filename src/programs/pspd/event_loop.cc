// SPDX-License-Identifier: Apache-2.0
#include "event_loop.hh"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <sys/epoll.h>
#include <systemd/sd-event.h>

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

namespace {

using State = EventLoop::Source::State;

int call_state(void* data) {
  // The callback may drop its own Source: keep what is being executed.
  const auto call = static_cast<State*>(data)->call;
  call();
  return 0;
}

int on_io(sd_event_source*, int, std::uint32_t, void* data) { return call_state(data); }
int on_signal_event(sd_event_source*, const signalfd_siginfo*, void* data) {
  return call_state(data);
}
int on_defer(sd_event_source*, void* data) { return call_state(data); }
int on_time(sd_event_source* source, std::uint64_t, void* data) {
  auto* state = static_cast<State*>(data);
  sd_event_source_set_time_relative(source, state->period_us);
  sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
  return call_state(data);
}

}  // namespace

EventLoop::EventLoop() : complete_(sd_event_new(&event_) >= 0) {}

EventLoop::Source EventLoop::registered(std::unique_ptr<State> state, int result) {
  if (result >= 0) return Source(std::move(state));
  if (running_) std::abort();
  complete_ = false;
  return Source();
}

EventLoop::~EventLoop() { sd_event_unref(event_); }

EventLoop::Source EventLoop::on_readable(int fd, std::function<void()> call) {
  auto state = std::make_unique<State>();
  state->call = std::move(call);
  const int result = sd_event_add_io(event_, &state->source, fd, EPOLLIN, on_io, state.get());
  return registered(std::move(state), result);
}

EventLoop::Source EventLoop::every(std::chrono::milliseconds period, std::function<void()> call) {
  auto state = std::make_unique<State>();
  state->call = std::move(call);
  state->period_us = static_cast<std::uint64_t>(period.count()) * 1000;
  // sd-event would join what is up to 250 ms apart: too coarse for the short ones.
  const std::uint64_t accuracy_us = std::max<std::uint64_t>(state->period_us / 4, 1);
  const int result = sd_event_add_time_relative(
      event_, &state->source, CLOCK_MONOTONIC, state->period_us, accuracy_us, on_time, state.get());
  return registered(std::move(state), result);
}

EventLoop::Source EventLoop::on_signal(int signal, std::function<void()> call) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  auto state = std::make_unique<State>();
  state->call = std::move(call);
  const int result =
      sd_event_add_signal(event_, &state->source, signal, on_signal_event, state.get());
  return registered(std::move(state), result);
}

EventLoop::Source EventLoop::later(std::function<void()> call) {
  auto state = std::make_unique<State>();
  state->call = std::move(call);
  const int result = sd_event_add_defer(event_, &state->source, on_defer, state.get());
  return registered(std::move(state), result);
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
