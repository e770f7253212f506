// SPDX-License-Identifier: Apache-2.0
//
// A timer of the kernel that signals this thread and no other. Calls that can be taken up again are
// (SA_RESTART): a close() that waits for its linger time is not among them, it ends. The handler
// does nothing: that there is one is what ends the call.
#include "interrupter.hh"

#include <csignal>
#include <unistd.h>

namespace psp::control {

Interrupter::Interrupter() {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  action.sa_flags = SA_RESTART;
  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = SIGURG;
  event._sigev_un._tid = ::gettid();
  works_ = ::sigaction(SIGURG, &action, nullptr) == 0 &&
           ::timer_create(CLOCK_MONOTONIC, &event, &timer_) == 0;
}

Interrupter::~Interrupter() {
  if (works_) ::timer_delete(timer_);
}

void Interrupter::turn(bool on) const {
  if (!works_) return;
  const timespec period{.tv_sec = 0, .tv_nsec = on ? kPeriodNs : 0};
  const itimerspec when{.it_interval = period, .it_value = period};
  ::timer_settime(timer_, 0, &when, nullptr);
}

}  // namespace psp::control
