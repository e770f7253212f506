// SPDX-License-Identifier: Apache-2.0
//
// SocketLists: lists of the secured sockets of this host, for whoever asks: anybody may. The kernel
// goes through all TCP sockets of the host to make one, so it is made elsewhere (a Walk), one list
// serves all who have asked before it was begun, and making them leaves so many times as long to
// others. Nobody gets a list that is older than his question.
//
// Pure: the time is given, the walk is behind an interface. Threading: the control thread only.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/duty_cycle.hh"
#include "kernel/sock_diag.hh"

namespace psp::host {

class SocketLists {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  // Found is what a walk has found: in the kernel's order, and only the cookies, sorted.
  struct Found {
    std::vector<kernel::SecuredSocket> sockets;
    std::vector<std::uint64_t> cookies;
  };

  // List is one that was asked for. kDropped: too many were being read.
  struct List {
    enum class State { kWanted, kMade, kFailed, kDropped };
    State state = State::kWanted;
    Found found;
  };

  // Walk makes a list, beside the control thread.
  class Walk {
   public:
    struct Result {
      std::expected<Found, std::string> found;
      std::chrono::nanoseconds took{};  // of a processor
    };
    virtual ~Walk() = default;
    virtual void begin() = 0;
    // result is nothing while it is at it; after that another may begin.
    virtual std::optional<Result> result() = 0;
  };

  // `walk` outlives this. `wanted` is called when turns are needed again.
  SocketLists(Walk& walk, std::function<void()> wanted) : walk_(walk), wanted_(std::move(wanted)) {}

  // ask is a list of what there is from now on. It is made by the turns; who lets go of it before
  // has changed his mind.
  std::shared_ptr<const List> ask();
  // turn goes on with what is to be done. False: nothing is.
  bool turn(TimePoint now);

  // Making a list leaves this many times as long to others, of which it may be ahead by kCredit: so
  // a list is begun at once, unless it is long or asked for all the time.
  static constexpr int kOthers = 15;
  static constexpr std::chrono::milliseconds kCredit{1000};
  // How many sockets the lists that are still being read may have, but for the youngest.
  static constexpr std::size_t kSocketsMax = 256 * 1024;

 private:
  void begin(TimePoint now);
  void make_room();

  Walk& walk_;
  std::function<void()> wanted_;
  std::shared_ptr<List> next_, making_;
  TimePoint begun_{};
  DutyCycle making_time_{kOthers, kCredit};
  std::deque<std::weak_ptr<List>> read_;  // oldest first
};

}  // namespace psp::host
