// SPDX-License-Identifier: Apache-2.0
//
// What a test and fail_call.cc, the library that it preloads into pspd, have in common: the call
// of pspd's main thread that is to fail, or before which it halts, and the calls there were.
//
// Threading: shared memory of two processes; one of them waits while the other is at it.
#pragma once

#include <array>
#include <cstdint>

namespace psp::lab {

enum class Phase : std::uint32_t { kStart, kRun, kStop };

struct NotedCall {
  std::array<char, 16> name{};
  std::uint64_t detail = 0;  // which call of bpf(2), ioctl(2) and so on
  std::uint64_t place = 0;   // in the code, with who called it; only of a run without a fault
};

struct FaultPlan {
  static constexpr std::uint32_t kMostCalls = 16384, kMostPrograms = 64;
  static constexpr std::int32_t kHalt = -1;

  // The test's: call `at` (from 1; 0: none) of a phase fails with `error`, or with kHalt the
  // process stops before it (SIGSTOP), and the test decides how it goes on.
  Phase phase = Phase::kStart;
  std::uint32_t at = 0;
  std::int32_t error = 0;

  // pspd's.
  Phase now = Phase::kStart;
  std::array<std::uint32_t, 3> count{};  // by phase
  std::array<std::array<NotedCall, kMostCalls>, 3> calls{};
  std::uint32_t program_count = 0;
  std::array<std::uint32_t, kMostPrograms> programs{};  // ids of all that it has loaded
};

}  // namespace psp::lab
