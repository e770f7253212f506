// SPDX-License-Identifier: Apache-2.0
//
// A thread for what may hang in the kernel. It is detached: nobody can end a close() that hangs,
// and the process must be able to end without it. pspd locks its memory, stacks too, so this one is
// small.
//
// Threading: any.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <pthread.h>
#include <utility>

namespace psp::control {

// start_detached runs `work` on a thread of its own. False: there is none to be had.
template <typename Work>
bool start_detached(Work work) {
  constexpr std::size_t kStack = 64 * 1024;
  std::unique_ptr<Work> owned(new (std::nothrow) Work(std::move(work)));
  if (!owned) return false;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, kStack);
  pthread_t thread;
  const auto run = [](void* data) -> void* {
    const std::unique_ptr<Work> mine(static_cast<Work*>(data));
    (*mine)();
    return nullptr;
  };
  const bool started = pthread_create(&thread, &attributes, run, owned.get()) == 0;
  pthread_attr_destroy(&attributes);
  if (started) (void)owned.release();  // the thread's now
  return started;
}

}  // namespace psp::control
