// SPDX-License-Identifier: Apache-2.0
//
// InNetns has the calling thread in another network namespace, and back where it was when it goes.
// It is the one place where our programs change a thread's namespace for a while.
//
// Threading: the thread that makes it; it starts no other meanwhile, which would stay there.
#pragma once

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include "base/unique_fd.hh"

namespace psp {

class InNetns {
 public:
  // `descriptor` is one of the namespace, as of /proc/PID/ns/net.
  explicit InNetns(int descriptor)
      : before_(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)),
        entered_(before_ && ::setns(descriptor, CLONE_NEWNET) == 0) {}
  // So will anything do that has such a descriptor.
  template <typename Netns>
  requires requires(const Netns& netns) { netns.descriptor().get(); }
  explicit InNetns(const Netns& netns) : InNetns(netns.descriptor().get()) {}
  // A thread that cannot come back ends the process: it would do its work to somebody else's
  // network. The kernel takes a little memory for it, which there may be a moment later.
  ~InNetns() {
    for (int tries = 0; entered_ && ::setns(before_.get(), CLONE_NEWNET) != 0; tries++) {
      if (errno != ENOMEM || tries == kTries) {
        std::fputs("pspd: cannot come back from a network namespace\n", stderr);
        std::abort();
      }
      ::usleep(kPauseUs);
    }
  }
  InNetns(const InNetns&) = delete;
  InNetns& operator=(const InNetns&) = delete;

  // entered: false, with errno, if the namespace does not let the thread in (needs CAP_SYS_ADMIN).
  bool entered() const { return entered_; }

 private:
  static constexpr int kTries = 100;
  static constexpr unsigned kPauseUs = 10'000;
  UniqueFd before_;
  bool entered_;
};

}  // namespace psp
