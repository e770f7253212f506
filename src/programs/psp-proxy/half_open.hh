// SPDX-License-Identifier: Apache-2.0
//
// HalfOpen: the connections of peers that have not proved anything yet, from accept to the end of
// the upgrade. They have limits of their own, so that strangers take no slot from those who are
// through, and a limit for each source, so that one stranger takes none from others.
//
// Where there are too many, the oldest goes, and those that have not said a word before all others:
// a peer speaks as soon as it is connected, and is through before others have filled all slots.
// The new one is never turned away: who held slots by a word each would keep all others out.
//
// Threading: all of it by any thread.
#pragma once

#include <array>
#include <atomic>
#include <expected>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <string_view>

#include "base/socket_address.hh"

namespace psp::proxy {

// HalfOpenLimits: from `start` on each new connection costs one with a probability that grows from
// `rate` percent to certainty at `full`, as sshd's MaxStartups has it. `each` is the limit of one
// source: an IPv4 address, or the first 64 bits of an IPv6 address.
struct HalfOpenLimits {
  unsigned start = 512, rate = 30, full = 1024;
  unsigned each = 256;
};

// parse_start_rate_full reads "START:RATE:FULL" into `limits`; the error is the end of a sentence.
std::expected<HalfOpenLimits, std::string> parse_start_rate_full(std::string_view text,
                                                                 HalfOpenLimits limits);

class HalfOpen {
 public:
  explicit HalfOpen(HalfOpenLimits limits) : limits_(limits) {}

  class Slot;
  // admit gives a slot that is the connection's own until it is through or over; `fd` stays open
  // for as long. Room may be made by a shutdown of another connection.
  std::unique_ptr<Slot> admit(const SocketAddress& from, int fd);

  // may_log is true for a few refusals, then for one a second: strangers shall not fill the log.
  bool may_log();
  // news is to be asked once a second: a sentence if connections began to be turned away since, or
  // if that is over.
  std::optional<std::string> news();

 private:
  using Source = std::array<std::uint8_t, 9>;  // family and prefix
  using Slots = std::list<Slot*>;              // the oldest first
  struct Queue {
    Slots silent, spoken;
    std::size_t size() const { return silent.size() + spoken.size(); }
  };
  using Groups = std::map<Source, Queue>;

  static Source source_of(const SocketAddress& from);
  bool unlucky();
  static void drop_oldest(const Queue& queue);
  void leave(Slot& slot);

  const HalfOpenLimits limits_;
  std::mutex mutex_;
  // Of the mutex:
  Groups groups_;
  Queue all_;
  std::minstd_rand random_{std::random_device{}()};
  std::uint64_t dropped_ = 0, dropped_before_ = 0, dropped_told_ = 0;
  std::uint64_t unlogged_ = 0;
  unsigned logged_ = 0, quiet_ = 0;  // lines of the last time; seconds without a drop
  bool dropping_ = false;
  std::string last_from_;
};

class HalfOpen::Slot {
 public:
  ~Slot();
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;

  // spoke tells that the peer has sent something.
  void spoke();
  bool spoken() const { return spoken_; }
  // dropped: it has lost its slot to another, and its socket is shut down.
  bool dropped() const { return dropped_; }

 private:
  friend class HalfOpen;
  Slot(HalfOpen& owner, Groups::iterator group, int fd) : owner_(owner), group_(group), fd_(fd) {}

  HalfOpen& owner_;
  Groups::iterator group_;
  int fd_;
  Slots::iterator in_all_, in_group_;
  bool spoken_ = false;
  std::atomic<bool> dropped_{false};
};

}  // namespace psp::proxy
