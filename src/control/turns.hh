// SPDX-License-Identifier: Apache-2.0
//
// Turns: the control thread's time, shared among those who want it. Each step of somebody's work is
// a turn, which is measured by the loop's time and charged to that flow (FairShare). A turn that
// has much to do asks whether it is over and goes on in the next one.
//
// Threading: the control thread only.
#pragma once

#include <chrono>
#include <sys/types.h>

#include "base/loop.hh"

#include "fair_share.hh"

namespace psp::control {

class Turns {
 public:
  explicit Turns(const Loop& loop) : loop_(loop) {}

  // enter, leave, is_next and withdraw are FairShare's.
  FairShare::Turn enter(uid_t uid, pid_t pid) { return share_.enter(uid, pid); }
  void leave(const FairShare::Turn& turn) { share_.leave(*turn.flow); }
  bool is_next(FairShare::Turn& turn) { return share_.is_next(turn); }
  void withdraw(FairShare::Turn& turn) { share_.withdraw(turn); }

  // take does a step of work, and stamps the next turn by what this one took.
  template <typename Step>
  void take(FairShare::Turn& turn, const Step& step) {
    const auto start = loop_.now();
    end_ = start + kLength;
    share_.begin(turn);
    step();
    share_.charge(turn, loop_.now() - start);
  }
  // over: the turn that is being taken has lasted long enough.
  bool over() const { return loop_.now() >= end_; }

  static constexpr std::chrono::milliseconds kLength{1};

 private:
  const Loop& loop_;
  FairShare share_;
  Loop::Clock::time_point end_{};
};

}  // namespace psp::control
