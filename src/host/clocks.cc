// SPDX-License-Identifier: Apache-2.0
//
// By clock_gettime(2), which costs no system call for the first two on our hosts. The time since
// the boot goes on while a host sleeps.
//
// IVs begin with the time since the boot, in picoseconds: so a pspd that starts again is ahead of
// the one before, whatever somebody does to the clock on the wall. That one only dates the packets
// that a device keeps for an operator; nothing is decided by it.
#include "clocks.hh"

#include <ctime>

namespace psp::host {
namespace {

std::uint64_t nanoseconds_of(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u +
         static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace

std::uint64_t boot_picoseconds() { return nanoseconds_of(CLOCK_BOOTTIME) * 1000u; }
std::uint64_t wall_nanoseconds() { return nanoseconds_of(CLOCK_REALTIME); }
std::chrono::nanoseconds processor_time() {
  return std::chrono::nanoseconds(nanoseconds_of(CLOCK_THREAD_CPUTIME_ID));
}

}  // namespace psp::host
