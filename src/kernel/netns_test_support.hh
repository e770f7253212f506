// SPDX-License-Identifier: Apache-2.0
//
// A network namespace of a test's own, for the thread that the test runs on. Without the right to
// make one the test says why, to be skipped. It has a loopback netdev that is down, and nothing of
// the host; it ends with the object, if no descriptor or socket of it is left. A thread that the
// test starts meanwhile is in it, too, and stays there.
#pragma once

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <string>

#include "base/unique_fd.hh"

#include "tap.hh"

namespace psp::kernel::test {

// PrivateNetns moves the calling thread into a new network namespace and back again.
class PrivateNetns {
 public:
  PrivateNetns() : before_(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)) {
    entered_ = before_ && ::unshare(CLONE_NEWNET) == 0;
    if (!entered_) why_ = std::string("needs root: unshare(CLONE_NEWNET): ") + std::strerror(errno);
  }
  ~PrivateNetns() {
    if (entered_) ::setns(before_.get(), CLONE_NEWNET);
  }
  bool entered() const { return entered_; }
  const std::string& why() const { return why_; }

 private:
  UniqueFd before_;
  bool entered_ = false;
  std::string why_;
};

// TapTest has a namespace and, in SetUp, skips where there is none or no TAP.
class TapTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!netns_.entered()) GTEST_SKIP() << netns_.why();
    auto tap = Tap::open("psp%d", 1);
    if (!tap) GTEST_SKIP() << "needs a TAP: " << tap.error().text;
  }
  PrivateNetns netns_;
};

}  // namespace psp::kernel::test
