// SPDX-License-Identifier: Apache-2.0
//
// Closer closes borrowed descriptors whose close() may wait: a socket with SO_LINGER whose owner
// has closed its own copy, a file whose file system is another program. The control thread must
// not.
//
// Threading: take on the control thread; close() on a thread of its own.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <psp/base/unique_fd.hh>

namespace psp {

class Closer {
 public:
  Closer();
  ~Closer();  // does not wait for a close() that hangs
  Closer(const Closer&) = delete;
  Closer& operator=(const Closer&) = delete;

  // take closes `fd`: here and now if that cannot wait, else soon.
  void take(UniqueFd fd);

 private:
  struct Queue;
  std::shared_ptr<Queue> queue_;
};

}  // namespace psp
