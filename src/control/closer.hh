// SPDX-License-Identifier: Apache-2.0
//
// Closer closes borrowed descriptors whose close() may wait: a socket with SO_LINGER whose owner
// has closed its own copy, a file whose file system is another program, a unix socket in which such
// descriptors still wait. The control thread must not; a socket that gets its linger time while it
// is being closed costs it ten milliseconds. Each user of pspd has his own (Accounts): whoever
// makes it hang, which nobody can with a socket (LastCopies), waits alone.
//
// Threading: take on the control thread; close() on a thread of its own, which is started when
// first needed.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "base/unique_fd.hh"

#include "last_copies.hh"

namespace psp::control {

class Closer {
 public:
  explicit Closer(std::shared_ptr<LastCopies> last_copies);
  ~Closer();  // does not wait for a close() that hangs
  Closer(const Closer&) = delete;
  Closer& operator=(const Closer&) = delete;

  // take closes `fd`: here and now if that cannot wait, else soon.
  void take(UniqueFd fd);
  // take_later closes `fd` on the thread, whatever it is.
  void take_later(UniqueFd fd);
  // waiting is how many descriptors are not closed yet.
  std::size_t waiting() const;

 private:
  struct Queue;
  bool start();
  std::shared_ptr<Queue> queue_;
  bool started_ = false;
};

}  // namespace psp::control
