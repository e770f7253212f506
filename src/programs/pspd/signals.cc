// SPDX-License-Identifier: Apache-2.0
//
// The lists are of what Linux has: each signal is either here, harmless by default, or cannot be
// taken (see the test).
//
// A signal that nobody takes would end pspd at once, and all its connections would be blocked until
// the next start: so also those are taken that nobody sends on purpose. After a crash nothing but a
// system call can be trusted: one line is written, then the default happens.
#include "signals.hh"

#include <csignal>
#include <cstring>
#include <string_view>
#include <unistd.h>

namespace psp {
namespace {

// on_crash: here nothing can be relied on but system calls.
void on_crash(int signal) {
  constexpr std::string_view kText =
      "pspd: crashed. Its programs stay in place and block what was secured, until it is started "
      "again or 'pspd --cleanup'\n";
  [[maybe_unused]] const auto n = ::write(STDERR_FILENO, kText.data(), kText.size());
  ::raise(signal);  // by its default now
}

}  // namespace

std::vector<int> stop_signals() {
  std::vector<int> all = {SIGHUP,  SIGINT,    SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2,   SIGALRM,
                          SIGXCPU, SIGVTALRM, SIGPROF, SIGPOLL, SIGPWR,  SIGSTKFLT, SIGXFSZ};
  for (int signal = SIGRTMIN; signal <= SIGRTMAX; signal++) all.push_back(signal);
  return all;
}

std::string signal_name(int signal) {
  const char* name = ::sigabbrev_np(signal);
  return name != nullptr ? std::string("SIG") + name : "signal " + std::to_string(signal);
}

void block_stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : stop_signals()) sigaddset(&set, signal);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

void report_crashes() {
  struct sigaction action {};
  action.sa_handler = on_crash;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_NODEFER);
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS, SIGTRAP})
    ::sigaction(signal, &action, nullptr);
}

}  // namespace psp
