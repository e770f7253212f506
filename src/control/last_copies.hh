// SPDX-License-Identifier: Apache-2.0
//
// LastCopies closes descriptors so that none makes those behind it wait: a socket with SO_LINGER
// waits in close() for as long as its owner likes, also if it is in a message that nobody has read,
// but not where a task ends that has the last copy of it. So each batch goes to a thread with a
// table of descriptors of its own, which has nothing but the batch, and ends.
//
// Threading: any.
#pragma once

#include <memory>
#include <span>

#include "base/unique_fd.hh"

namespace psp::control {

class LastCopies {
 public:
  // To be made before there is a descriptor whose close() may wait.
  LastCopies();
  ~LastCopies();
  LastCopies(const LastCopies&) = delete;
  LastCopies& operator=(const LastCopies&) = delete;

  // close closes `fds`; where this way is blocked for a second, in its own. What waits in the
  // close() of each copy, a file whose file system is another program, makes it wait all the same.
  void close(std::span<UniqueFd> fds);

 private:
  struct Room;
  std::shared_ptr<Room> room_;
};

}  // namespace psp::control
