// SPDX-License-Identifier: Apache-2.0
//
// Every slot stands in two queues, that of all and that of its source, each in order of age and
// with the silent ones apart: so whom to drop is found without a search, however many strangers
// there are. A slot that loses its place has its socket shut down, which wakes its worker. news()
// tells of the beginning and the end of a flood, and not of each connection.
#include "half_open.hh"

#include <charconv>
#include <cstring>
#include <fmt/format.h>
#include <netinet/in.h>
#include <utility>

#include "base/counted.hh"

namespace psp::proxy {
namespace {

constexpr unsigned kLines = 20;
constexpr unsigned kQuietSeconds = 10;  // without a drop, until the log says that it is over

// take_number reads a number and the `end` behind it; 0 stands for the end of the text.
std::optional<unsigned> take_number(std::string_view& text, char end) {
  unsigned number = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  text.remove_prefix(static_cast<std::size_t>(rest - text.data()));
  if (error != std::errc() || (end == 0 ? !text.empty() : !text.starts_with(end)))
    return std::nullopt;
  if (end != 0) text.remove_prefix(1);
  return number;
}

}  // namespace

std::expected<HalfOpenLimits, std::string> parse_start_rate_full(std::string_view text,
                                                                 HalfOpenLimits limits) {
  constexpr unsigned kMost = 1'000'000;
  std::string_view rest = text;
  const auto start = take_number(rest, ':');
  const auto rate = start ? take_number(rest, ':') : std::nullopt;
  const auto full = rate ? take_number(rest, 0) : std::nullopt;
  if (!full) return std::unexpected(fmt::format("\"{}\" is not START:RATE:FULL", text));
  if (*start < 1 || *start > *full || *full > kMost || *rate < 1 || *rate > 100)
    return std::unexpected(
        fmt::format("\"{}\": START is from 1 to FULL, RATE from 1 to 100 percent, FULL at most {}",
                    text, kMost));
  limits.start = *start;
  limits.rate = *rate;
  limits.full = *full;
  return limits;
}

HalfOpen::Source HalfOpen::source_of(const SocketAddress& from) {
  const SocketAddress plain = from.unmapped();
  Source out{static_cast<std::uint8_t>(plain.family())};
  if (plain.family() == AF_INET) {
    sockaddr_in in4{};
    std::memcpy(&in4, &plain.storage, sizeof in4);
    std::memcpy(out.data() + 1, &in4.sin_addr, 4);
  } else if (plain.family() == AF_INET6) {
    sockaddr_in6 in6{};
    std::memcpy(&in6, &plain.storage, sizeof in6);
    std::memcpy(out.data() + 1, &in6.sin6_addr, 8);
  }
  return out;
}

bool HalfOpen::unlucky() {
  const std::size_t count = all_.size();
  if (count < limits_.start) return false;
  if (count >= limits_.full) return true;
  const std::size_t percent = limits_.rate + (100 - limits_.rate) * (count - limits_.start) /
                                                 (limits_.full - limits_.start);
  return std::uniform_int_distribution<std::size_t>(0, 99)(random_) < percent;
}

// drop_oldest wakes the worker of the one that goes: its socket comes to an end.
void HalfOpen::drop_oldest(const Queue& queue) {
  const Slots& slots = queue.silent.empty() ? queue.spoken : queue.silent;
  if (slots.empty()) return;
  Slot& slot = *slots.front();
  slot.dropped_ = true;
  shutdown(slot.fd_, SHUT_RDWR);
  slot.owner_.leave(slot);
}

std::unique_ptr<HalfOpen::Slot> HalfOpen::admit(const SocketAddress& from, int fd) {
  const Source source = source_of(from);
  // What takes memory comes first: nothing is to be undone where there is none.
  Slots in_all(1), in_group(1);
  std::unique_ptr<Slot> slot(new Slot(*this, groups_.end(), fd));
  in_all.front() = in_group.front() = slot.get();
  const std::lock_guard lock(mutex_);
  const auto found = groups_.find(source);
  const bool source_full = found != groups_.end() && found->second.size() >= limits_.each;
  if (source_full || unlucky()) {
    if (dropped_++ == dropped_before_) last_from_ = source_full ? from.text() : std::string();
    drop_oldest(source_full ? found->second : all_);
  }
  slot->group_ = groups_.try_emplace(source).first;
  slot->in_all_ = in_all.begin();
  slot->in_group_ = in_group.begin();
  all_.silent.splice(all_.silent.end(), in_all);
  Slots& silent = slot->group_->second.silent;
  silent.splice(silent.end(), in_group);
  return slot;
}

// leave is the end of a slot, with the mutex held.
void HalfOpen::leave(Slot& slot) {
  if (slot.group_ == groups_.end()) return;
  Queue& group = slot.group_->second;
  (slot.spoken_ ? all_.spoken : all_.silent).erase(slot.in_all_);
  (slot.spoken_ ? group.spoken : group.silent).erase(slot.in_group_);
  if (group.size() == 0) groups_.erase(slot.group_);
  slot.group_ = groups_.end();
}

HalfOpen::Slot::~Slot() {
  const std::lock_guard lock(owner_.mutex_);
  owner_.leave(*this);
}

void HalfOpen::Slot::spoke() {
  const std::lock_guard lock(owner_.mutex_);
  if (spoken_ || group_ == owner_.groups_.end()) return;
  spoken_ = true;
  Queue& group = group_->second;
  owner_.all_.spoken.splice(owner_.all_.spoken.end(), owner_.all_.silent, in_all_);
  group.spoken.splice(group.spoken.end(), group.silent, in_group_);
}

bool HalfOpen::may_log() {
  const std::lock_guard lock(mutex_);
  if (logged_ == kLines) {
    ++unlogged_;
    return false;
  }
  ++logged_;
  return true;
}

std::optional<std::string> HalfOpen::news() {
  const std::lock_guard lock(mutex_);
  if (logged_ > 0) --logged_;
  const bool drops = dropped_ != std::exchange(dropped_before_, dropped_);
  quiet_ = drops ? 0 : quiet_ + 1;
  if (drops && !dropping_) {
    dropping_ = true;
    return fmt::format(
        "too many connections that do not get through the handshake{}: the oldest "
        "are dropped, the silent first (see --half-open, --half-open-source)",
        last_from_.empty() ? std::string() : fmt::format(", for example from {}", last_from_));
  }
  if ((!dropping_ && unlogged_ == 0) || quiet_ < kQuietSeconds) return std::nullopt;
  const auto dropped = dropped_ - std::exchange(dropped_told_, dropped_);
  dropping_ = false;
  quiet_ = 0;
  return fmt::format(
      "no connection was dropped before the handshake for {} s; before that {}, and {} refused "
      "without a line here",
      kQuietSeconds, counted(dropped, "was", "were"),
      counted(std::exchange(unlogged_, 0), "more was", "more were"));
}

}  // namespace psp::proxy
