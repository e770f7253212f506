// SPDX-License-Identifier: Apache-2.0
//
// Recount finds the sockets whose end went unheard. Who closes many at once makes the kernel drop
// what it tells of them, and does so as often as he likes: so the sockets are counted again at most
// once for each call of begin, and some of them at a time. What is missed meanwhile is for the next
// time.
//
// Pure: the time is given. Threading: the control thread only.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "departures.hh"
#include "socket_lists.hh"

namespace psp::host {

class Recount {
 public:
  // Both outlive this.
  Recount(SocketLists& lists, Departures& departures) : lists_(lists), departures_(departures) {}

  // gone is told of a socket that has gone. Where there is no memory to note it, it counts as
  // missed.
  void gone(std::uint64_t cookie, Departures::TimePoint now) noexcept;
  // missed is told when the kernel has dropped something.
  void missed() { missed_ = true; }
  // begin begins if there is a reason, and nothing under way. To be called at regular times.
  void begin();
  // turn goes on. False: nothing is under way.
  bool turn(Departures::TimePoint now);

  // A walk through the kernel's table may leave out sockets that are there, while others before
  // them close: one has gone when so many lists in a row did not have it.
  static constexpr int kLists = 3;
  static constexpr std::size_t kAtOnce = 1024;

 private:
  void look_at(std::uint64_t cookie, Departures::TimePoint now);

  SocketLists& lists_;
  Departures& departures_;
  bool missed_ = false;
  std::shared_ptr<const SocketLists::List> list_;  // while it is under way
  int lists_before_ = 0;
  std::vector<std::uint64_t> left_;      // to be looked up in this list
  std::vector<std::uint64_t> unlisted_;  // that are in none so far
};

}  // namespace psp::host
