// SPDX-License-Identifier: Apache-2.0
//
// Interrupter keeps a system call of its thread from waiting for long: while it is on a signal
// comes again and again, and what waits interruptibly ends. One signal would not do, it could come
// just before the call. The signal is SIGURG, which is harmless by default and does nothing here.
//
// Threading: the thread that makes it.
#pragma once

#include <ctime>

namespace psp::control {

class Interrupter {
 public:
  Interrupter();
  ~Interrupter();
  Interrupter(const Interrupter&) = delete;
  Interrupter& operator=(const Interrupter&) = delete;

  // works: false if the kernel has no timer for it.
  bool works() const { return works_; }
  void turn(bool on) const;

  // Behind the kernel's own next tick: what comes before it costs a processor's timer, which in a
  // virtual machine is dear.
  static constexpr long kPeriodNs = 10'000'000;

 private:
  timer_t timer_{};
  bool works_ = false;
};

}  // namespace psp::control
