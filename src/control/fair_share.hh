// SPDX-License-Identifier: Apache-2.0
//
// FairShare orders the work for clients so that every user gets as much of a thread's time as any
// other that wants it, and each process of a user as much as any other of that user's. It is
// start-time fair queueing: work is stamped with the virtual time at which its flow may have its
// next turn, the lowest stamp goes first, and a turn moves the flow's stamp on by what it took. A
// client that asks seldom is stamped low, so it waits for one turn of somebody else's. A flow's
// connections have their turns one after the other: the first in its queue has the flow's stamp.
//
// A process that comes anew has its first turn when its user is due: who starts processes, or
// connects, asks and closes again and again, has no more than who stays. So a user is remembered
// until virtual time has passed what it has had.
//
// Pure: the caller measures and does the ordering. Threading: one thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <sys/types.h>
#include <utility>

namespace psp::control {

class FairShare {
 public:
  // Stamp is virtual time in nanoseconds; above 0.
  using Stamp = std::int64_t;

  struct Turn;
  struct User;

  // Flow is one process of one user.
  class Flow {
    friend class FairShare;
    std::pair<uid_t, pid_t> key_;
    Stamp next_ = 1;              // of its next turn
    Stamp newcomer_ = 1;          // of its next connection, if that is later
    std::list<Turn*> queue_;      // those that are not first come after all stamps
    std::size_t references_ = 0;  // to this object
    User* user_ = nullptr;
  };

  struct User {
    uid_t uid = 0;
    Stamp next = 1;            // of its next process
    std::size_t flows = 0;     // that it has here
    std::list<User*> place{};  // in quiet_, while it is not there: to be put there takes no memory
    std::list<User*>::iterator self{};
  };

  // Turn is the next one of a connection: its flow, and the stamp of the work. It stays where it is
  // while it is queued.
  struct Turn {
    Flow* flow = nullptr;
    Stamp stamp = 0;
    std::function<void(Stamp)> on_stamp{};  // hears of a new one
    bool queued = false;
    std::list<Turn*> place{};  // in the queue, while it is not there: queueing takes no memory
    std::list<Turn*>::iterator self{};
  };

  // enter gives one more connection of the process its first turn; each needs a leave. A flow stays
  // where it is until its last one. leave needs no memory.
  Turn enter(uid_t uid, pid_t pid);
  void leave(Flow& flow);
  // is_next: this connection, which has something to do and the lowest stamp, may have its turn.
  // False: another of its flow comes first, and it has a new stamp.
  bool is_next(Turn& turn);
  // begin tells that this turn is being taken.
  void begin(const Turn& turn);
  // charge tells how long the turn took, and gives the connection's next one its stamp.
  void charge(Turn& turn, std::chrono::nanoseconds spent);
  // withdraw: the connection has nothing to do for now.
  void withdraw(Turn& turn);

  static constexpr std::size_t kQuietMax = 1024;  // users without a process here, remembered

 private:
  User& user_of(uid_t uid);
  void forget_passed();
  static void stamp(Turn& turn, Stamp stamp);
  static void call_first(Flow& flow);
  Stamp clock_ = 1;   // the latest stamp that had its turn
  Stamp queued_ = 0;  // how often a connection went to the end of a queue
  std::map<uid_t, User> users_;
  std::list<User*> quiet_;  // those without a flow, in the order in which they lost their last
  std::map<std::pair<uid_t, pid_t>, Flow> flows_;
};

}  // namespace psp::control
