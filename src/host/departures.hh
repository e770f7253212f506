// SPDX-License-Identifier: Apache-2.0
//
// Departures: what becomes of an association when its socket goes. One with a Tx key stays for as
// long as the kernel may answer for the connection without a socket (TIME_WAIT), so that these
// answers are sealed too; then the key and all that is known of the connection go. Sockets that an
// earlier pspd secured are watched as well, until they are closed.
//
// Pure: the time is given, the sockets are behind an interface. Threading: the control thread only.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <vector>

#include "device/core.hh"

namespace psp::host {

class Departures {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  // Sockets is what this must know of and do to them, by their cookies.
  struct Sockets {
    // is_released: has the application closed it? Nothing: the kernel does not tell.
    std::function<std::optional<bool>(std::uint64_t cookie)> is_released;
    // forget drops what the kernel was told about packets that are sent without the socket. False:
    // some of it is still there.
    std::function<bool(std::uint64_t cookie)> forget;
  };

  // `core` outlives this.
  Departures(device::Core& core, Sockets sockets) : core_(core), sockets_(std::move(sockets)) {}

  // inherit watches a socket that an earlier pspd secured.
  void inherit(std::uint64_t cookie) { inherited_.push_back(cookie); }
  // depart is told when a socket has gone.
  void depart(std::uint64_t cookie, TimePoint now);
  // open are the cookies of the sockets whose end was not heard.
  std::vector<std::uint64_t> open() const;
  // depart_unheard is told of one that the kernel does not list. It may have been disconnected: it
  // has gone if its application has closed it. False: the kernel does not tell; to be told again.
  [[nodiscard]] bool depart_unheard(std::uint64_t cookie, TimePoint now);
  // release_all ends what was secured in a network namespace that is no more: the keys at once,
  // what the kernel was told in the next turns.
  void release_all(std::uint64_t netns, TimePoint now);
  // look_again: expire shall look at inherited sockets once more.
  void look_again();
  // expire lets go of what TIME_WAIT is over for, and of inherited sockets that are closed: for a
  // turn of the control thread. True: there is more, for the next one.
  bool expire(TimePoint now);
  // pending: for some the kernel may still have to answer.
  bool pending() const { return !departed_.empty(); }

  // FIN_WAIT2 without its full socket and TIME_WAIT last 60 seconds each in Linux.
  static constexpr std::chrono::seconds kTimeWait{125};
  static constexpr std::size_t kAtOnce = 128;  // each some calls of the kernel: about a millisecond
  static constexpr std::size_t kInheritedAtALook = 4096;

 private:
  struct Departed {
    TimePoint until;
    std::uint64_t cookie;
  };
  bool due(TimePoint now) const { return !departed_.empty() && departed_.front().until <= now; }
  void forget(std::uint64_t cookie);
  void look_at_inherited();

  device::Core& core_;
  Sockets sockets_;
  std::deque<Departed> departed_;        // the first goes first
  std::deque<std::uint64_t> inherited_;  // that are still open, as far as is known
  std::size_t to_look_at_ = 0;           // of those
};

}  // namespace psp::host
