// SPDX-License-Identifier: Apache-2.0
//
// The loop when memory runs out within sd-event itself, which takes it for what has become ready.
// This program has the C library's malloc, calloc and realloc to itself: in each of 200 runs
// another one of their calls fails once. Shown: every callback that was ready is called all the
// same, and the loop ends when it is told to, not before. The line that the loop writes shows that
// some of the failures were its own. Skipped under sanitizers, whose allocator nothing may stand
// before. A callback that runs out of memory: event_loop_test.cc.
#include <array>
#include <cerrno>
#include <cstddef>
#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include "base/event_loop.hh"
#include "base/unique_fd.hh"

// The allocation that fails, counted down on the one thread that sets it; 0: none.
static thread_local int failing_allocation = 0;

namespace {
bool fails() {
  if (failing_allocation == 0 || --failing_allocation != 0) return false;
  errno = ENOMEM;
  return true;
}
}  // namespace

extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* memory, std::size_t size);

void* malloc(std::size_t size) { return fails() ? nullptr : __libc_malloc(size); }
void* calloc(std::size_t count, std::size_t size) {
  return fails() ? nullptr : __libc_calloc(count, size);
}
void* realloc(void* memory, std::size_t size) {
  return fails() ? nullptr : __libc_realloc(memory, size);
}
}

namespace psp {
namespace {

using namespace std::chrono_literals;

// runs_to_its_end: the loop calls all that is ready and stops when it is told to, though the nth
// allocation fails.
bool runs_to_its_end(int nth) {
  constexpr int kMany = 40;
  EventLoop loop;
  std::array<UniqueFd, kMany> fds;
  std::array<EventLoop::Source, kMany> sources;
  std::array<bool, kMany> called{};
  for (std::size_t i = 0; i < kMany; i++) {
    fds[i].reset(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK));
    sources[i] = loop.on_readable(fds[i].get(), [&, i] { called[i] = true; });
  }
  int ticks = 0;
  const auto timer = loop.every(1ms, [&] {
    ticks++;
    for (const bool one : called)
      if (!one) return;
    loop.stop(7);
  });
  failing_allocation = nth;
  const int code = loop.run();
  failing_allocation = 0;
  return code == 7 && ticks > 0;
}

TEST(EventLoopMemory, RunsOutOnceAndTheLoopGoesOn) {
  testing::internal::CaptureStderr();
  for (int nth = 1; nth <= 200; nth++) EXPECT_TRUE(runs_to_its_end(nth)) << nth;
  EXPECT_NE(testing::internal::GetCapturedStderr().find("the event loop goes on"),
            std::string::npos)
      << "none of the loop's own failed";
}

}  // namespace
}  // namespace psp
