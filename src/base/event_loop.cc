// SPDX-License-Identifier: Apache-2.0
//
// A registration's address is what sd-event hands back to the callback; a timer is a one-shot that
// is armed anew at each call, so that its period begins when it was served. In a turn of the loop
// one of sd-event's has its call, and one file or two.
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

// State is one registration with sd-event, which hands its address to the callback.
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

// FileState is that of a descriptor.
class FileState final : public Loop::Registration {
 public:
  FileState(std::shared_ptr<ReadyFiles> files, int fd, std::function<void()>&& call)
      : files_(std::move(files)) {
    ReadyFiles::prepare(file, fd);
    file.call = std::move(call);
  }
  ~FileState() override { enable(false); }
  void set_order(std::int64_t order) override { files_->set_order(file, order); }
  bool enable(bool on) override {
    if (on == watched_) return true;
    if (!on) files_->forget(file);
    watched_ = false;
    return !on || watch() == 0;
  }
  int watch() {
    const int error = files_->watch(file);
    watched_ = error == 0;
    return error;
  }

  ReadyFiles::File file;

 private:
  const std::shared_ptr<ReadyFiles> files_;  // a Source may outlive the loop
  bool watched_ = false;
};

constexpr unsigned kRetryUs = 10'000;

int run_call(const std::function<void()>& registered) {
  try {
    const auto call = registered;  // which may drop its own Source
    call();
  } catch (const std::bad_alloc&) {
    std::fputs("out of memory: what was being done is given up\n", stderr);
  }
  return 0;
}

int on_signal_event(sd_event_source*, const signalfd_siginfo*, void* data) {
  return run_call(static_cast<State*>(data)->call);
}
int on_time(sd_event_source* source, std::uint64_t, void* data) {
  auto* state = static_cast<State*>(data);
  sd_event_source_set_time_relative(source, state->period_us);
  sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
  return run_call(state->call);
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

EventLoop::EventLoop() : files_(std::make_shared<ReadyFiles>()) {
  sd_event_source* wake = nullptr;
  const auto nothing = [](sd_event_source*, int, std::uint32_t, void*) { return 0; };
  if (sd_event_new(&event_) < 0 ||
      sd_event_add_io(event_, &wake, files_->fd(), EPOLLIN, nothing, nullptr) < 0)
    is_incomplete();
  sd_event_source_set_floating(wake, 1);
  sd_event_source_unref(wake);
}

EventLoop::~EventLoop() { sd_event_unref(event_); }

std::expected<Loop::Source, int> EventLoop::try_on_readable(int fd,
                                                            std::function<void()> call) noexcept {
  try {
    auto state = std::make_unique<FileState>(files_, fd, std::move(call));
    if (const int error = state->watch(); error != 0) return std::unexpected(error);
    return Loop::Source(std::move(state));
  } catch (const std::bad_alloc&) {
    return std::unexpected(ENOMEM);
  }
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

// turn_of_files: those that are never ordered come first, but do not keep the others from theirs.
void EventLoop::turn_of_files() {
  for (const std::int64_t from : {INT64_MIN, INT64_C(1)}) {
    int code;
    if (sd_event_get_exit_code(event_, &code) >= 0) return;  // it was told to stop
    files_->collect();
    if (const ReadyFiles::File* file = files_->next(from)) run_call(file->call);
  }
}

// run: sd-event takes memory for what has become ready. What it could not note then is still ready,
// or over, for timers, at the next look, which must not wait for anybody else.
int EventLoop::run() {
  set_running();
  std::uint64_t patience_us = UINT64_MAX;
  while (sd_event_get_state(event_) != SD_EVENT_FINISHED) {
    const int result = sd_event_run(event_, files_->empty() ? patience_us : 0);
    patience_us = result == -ENOMEM ? kRetryUs : UINT64_MAX;
    if (result < 0 && result != -ENOMEM) return result;
    if (result >= 0) {
      turn_of_files();
      continue;
    }
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
