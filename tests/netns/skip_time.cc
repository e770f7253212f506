// SPDX-License-Identifier: Apache-2.0
//
// A library to preload into pspd that lets a test skip time: std::chrono::steady_clock is ahead of
// the kernel's by as many seconds as the file that $PSP_TEST_CLOCK names begins with. Timers of the
// event loop do not look at this clock and go on as ever.
//
// Threading: the file is a shared mapping of one atomic number, written by the test.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <fcntl.h>
#include <sys/mman.h>

namespace {

std::atomic<int> none{0};

std::atomic<int>* map_skipped() {
  const char* path = std::getenv("PSP_TEST_CLOCK");
  const int fd = path != nullptr ? ::open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) return &none;
  void* memory = ::mmap(nullptr, sizeof none, PROT_READ, MAP_SHARED, fd, 0);
  return memory == MAP_FAILED ? &none : static_cast<std::atomic<int>*>(memory);
}

// Early: later pspd has given up what it takes to open the file.
std::atomic<int>* const skipped = map_skipped();

}  // namespace

namespace std::chrono {

steady_clock::time_point steady_clock::now() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const seconds ahead(skipped != nullptr ? skipped->load(std::memory_order_relaxed) : 0);
  return time_point(seconds(now.tv_sec) + nanoseconds(now.tv_nsec) + ahead);
}

}  // namespace std::chrono
