// SPDX-License-Identifier: Apache-2.0
//
// A turn of ManualLoop: poll() tells what is readable, the lowest order of it is called, and so on
// until nothing is; then time jumps to the next timer. An entry lives as long as its Source, or
// until its call returns.
#include "base/manual_loop.hh"

#include <algorithm>
#include <cerrno>
#include <new>
#include <poll.h>

namespace psp {

struct ManualLoop::Entry {
  int fd = -1;  // none: a timer
  std::function<void()> call;
  std::chrono::milliseconds period{};
  Clock::time_point due{};
  std::int64_t order = 0;
  bool enabled = true;
};

struct ManualLoop::Handle final : Loop::Registration {
  Handle(ManualLoop& of, std::shared_ptr<Entry> what) : loop(of), entry(std::move(what)) {}
  ~Handle() override { std::erase(loop.entries_, entry); }
  void set_order(std::int64_t order) override { entry->order = order; }
  bool enable(bool on) override {
    if (on && entry->fd >= 0 && loop.refusal_ != 0) return false;
    entry->enabled = on;
    if (on) entry->due = loop.now_ + entry->period;
    return true;
  }
  ManualLoop& loop;
  std::shared_ptr<Entry> entry;
};

std::expected<Loop::Source, int> ManualLoop::add(Entry entry) noexcept {
  if (refusal_ != 0) return std::unexpected(refusal_);
  try {
    entries_.push_back(std::make_shared<Entry>(std::move(entry)));
    return Source(std::make_unique<Handle>(*this, entries_.back()));
  } catch (const std::bad_alloc&) {
    return std::unexpected(ENOMEM);
  }
}

std::expected<Loop::Source, int> ManualLoop::try_on_readable(int fd,
                                                             std::function<void()> call) noexcept {
  return add({.fd = fd, .call = std::move(call)});
}

std::expected<Loop::Source, int> ManualLoop::try_every(std::chrono::milliseconds period,
                                                       std::function<void()> call) noexcept {
  return add({.call = std::move(call), .period = period, .due = now_ + period});
}

void ManualLoop::call(const std::shared_ptr<Entry>& entry) {
  try {
    entry->call();
  } catch (const std::bad_alloc&) {
    return;  // as in an EventLoop: nothing else ends
  }
}

std::shared_ptr<ManualLoop::Entry> ManualLoop::next_readable() {
  std::vector<pollfd> polled;
  std::vector<std::shared_ptr<Entry>> of;
  for (const auto& entry : entries_)
    if (entry->fd >= 0 && entry->enabled) {
      polled.push_back({entry->fd, POLLIN, 0});
      of.push_back(entry);
    }
  if (::poll(polled.data(), polled.size(), 0) <= 0) return nullptr;
  std::shared_ptr<Entry> first;
  for (std::size_t i = 0; i < of.size(); i++)
    if (polled[i].revents != 0 && (!first || of[i]->order < first->order)) first = of[i];
  return first;
}

std::shared_ptr<ManualLoop::Entry> ManualLoop::next_due(Clock::time_point until) const {
  std::shared_ptr<Entry> first;
  for (const auto& entry : entries_)
    if (entry->fd < 0 && entry->enabled && entry->due <= until &&
        (!first || entry->due < first->due))
      first = entry;
  return first;
}

std::size_t ManualLoop::settle() {
  std::size_t calls = 0;
  for (; calls < kMaxCalls; calls++) {
    const auto entry = next_readable();
    if (!entry) break;
    call(entry);
  }
  return calls;
}

void ManualLoop::advance(std::chrono::nanoseconds time) {
  const auto until = now_ + time;
  settle();
  while (const auto entry = next_due(until)) {
    now_ = std::max(now_, entry->due);
    entry->due = now_ + entry->period;
    call(entry);
    settle();
  }
  now_ = std::max(now_, until);
}

std::size_t ManualLoop::timers() const {
  return static_cast<std::size_t>(std::ranges::count_if(
      entries_, [](const auto& entry) { return entry->fd < 0 && entry->enabled; }));
}

}  // namespace psp
