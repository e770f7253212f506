// SPDX-License-Identifier: Apache-2.0
//
// FairShare orders the work for clients so that every user gets as much of a thread's time as any
// other that wants it, and each process of a user as much as any other of that user's. It is
// start-time fair queueing: work is stamped with the virtual time at which its flow may have its
// next turn, the lowest stamp goes first, and a turn moves the flow's stamp on by what it took. A
// client that asks seldom is stamped low, so it waits for one turn of somebody else's, not for a
// turn of each connection that somebody has opened.
//
// Pure: the caller measures and does the ordering. Threading: one thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <sys/types.h>
#include <utility>

namespace psp {

class FairShare {
 public:
  // Stamp is virtual time in nanoseconds; above 0.
  using Stamp = std::int64_t;

  // Flow is one process of one user.
  class Flow {
    friend class FairShare;
    std::pair<uid_t, pid_t> key_;
    Stamp next_ = 1;
    std::size_t users_ = 0;            // of this object
    std::size_t* siblings_ = nullptr;  // flows of the user, this one among them
  };

  // Place is that of one connection: its flow, and the stamp of its first work.
  struct Place {
    Flow* flow = nullptr;
    Stamp stamp = 0;
  };

  // enter makes a place for one more connection of the process; each needs a leave. A flow stays
  // where it is until its last one.
  Place enter(uid_t uid, pid_t pid);
  void leave(Flow& flow);
  // begin tells that work with this stamp has its turn now.
  void begin(Stamp stamp);
  // charge tells how long the turn took; the flow's next work is stamped with what it returns.
  Stamp charge(Flow& flow, std::chrono::nanoseconds spent);

 private:
  Stamp clock_ = 1;  // the latest stamp that had its turn
  std::map<uid_t, std::size_t> flows_of_;
  std::map<std::pair<uid_t, pid_t>, Flow> flows_;
};

}  // namespace psp
