// SPDX-License-Identifier: Apache-2.0
//
// What a test and fail_call.cc, the library that it preloads into pspd, have in common: the call
// of pspd's main thread at which there is a fault, and the calls there were. A call is known by its
// place, which is the same in each process: how many calls there are before it differs with what
// else is on the host.
//
// Threading: shared memory of two processes; one of them waits while the other is at it.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace psp::lab {

// kAsked is from when a request that the test has announced was heard until its answer is sent, or
// a reload from its beginning to its end.
enum class Phase : std::uint32_t { kStart, kRun, kAsked, kStop };
inline constexpr std::size_t kPhases = 4;

// kFailOn: the call fails, and so does each that comes to its place later. Where it halts
// (SIGSTOP), the test decides how it goes on. kHaltBeforeEach: at each place, and when the phase is
// over.
enum class FaultKind : std::uint32_t {
  kNone,
  kFail,
  kFailOn,
  kHaltBefore,
  kHaltAfter,
  kHaltBeforeEach
};

struct NotedCall {
  std::array<char, 16> name{};
  std::uint64_t detail = 0;      // which call of bpf(2), ioctl(2) and so on
  std::uint64_t place = 0;       // in the code, with who called it
  std::uint32_t occurrence = 0;  // at this place, from 1
  // A line of the code called something here that made no call in this phase before.
  bool new_line = false;
};

struct FaultPlan {
  static constexpr std::uint32_t kMostCalls = 16384, kMostPrograms = 64;

  // The test's: a call in a phase, and what happens there.
  Phase phase = Phase::kStart;
  FaultKind fault = FaultKind::kNone;
  NotedCall call;
  std::int32_t error = 0;
  std::atomic<bool> listens{false};  // the next request is what is asked

  // pspd's.
  std::atomic<Phase> now{Phase::kStart};
  std::atomic<bool> met{false};  // there was the fault
  std::uint32_t at_place = 0;    // how often it was there
  std::array<std::uint32_t, kPhases> count{};
  std::array<std::array<NotedCall, kMostCalls>, kPhases> calls{};  // with kNone and kHaltBeforeEach
  std::atomic<std::uint32_t> socket_dumps{0};  // of all threads: dumps of TCP sockets
  // Of the stop, in nanoseconds: for how long pspd has asked to sleep, and for how long it was kept
  // from going on, whoever else wanted the processors.
  std::uint64_t asked_to_sleep = 0, blocked = 0;
  std::uint32_t program_count = 0;
  std::array<std::uint32_t, kMostPrograms> programs{};  // ids of all that it has loaded
};

}  // namespace psp::lab
