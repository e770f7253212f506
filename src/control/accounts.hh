// SPDX-License-Identifier: Apache-2.0
//
// Accounts: what each user of the host costs pspd, and how much of that may be: connections, octets
// that wait for clients which do not read, descriptors that are not closed yet. One user can have a
// quarter of what there is, so that four are needed to leave others without; root has some that
// nobody else can take.
//
// A descriptor that a client has passed can hang in close() for as long as its owner likes (a file
// whose file system is another program). A connection hardly can: what is in it was never in a
// table of descriptors, so no file system is asked to flush it, and the last copy of a socket goes
// with a task (LastCopies). So each has a Closer of its own: whoever hangs can still be refused.
//
// Threading: the control thread only.
#pragma once

#include <cstddef>
#include <map>
#include <sys/types.h>

#include "closer.hh"

namespace psp::control {

class Accounts {
 public:
  static constexpr std::size_t kClientsMax = 4096;     // a quarter of it a user, but root; and
  static constexpr std::size_t kClientsOfRoot = 256;   // of these stay free for root
  static constexpr std::size_t kClosingMax = 256;      // passed descriptors of a user to be closed
  static constexpr std::size_t kEndingMax = 1024;      // connections of a user to be closed
  static constexpr std::size_t kOctetsMax = 16 << 20;  // held for clients; a quarter a user

  enum class Admission {
    kWelcome,
    kFull,   // to be closed: the user, or pspd, has enough
    kLater,  // they come faster than they can be closed
  };
  Admission admission(uid_t uid);
  // enter and leave count a connection.
  void enter(uid_t uid);
  void leave(uid_t uid);
  // hold counts `octets` for a connection that had `held` before. False: this user, or all of them,
  // would hold too much; it is counted all the same.
  bool hold(uid_t uid, std::size_t held, std::size_t octets);
  // closer is the user's, for what its clients pass; connection_closer, for its connections.
  Closer& closer(uid_t uid) { return account(uid).closer; }
  Closer& connection_closer(uid_t uid) { return account(uid).connection_closer; }
  // may_go_on: few enough of the descriptors that the user has passed hang in close().
  bool may_go_on(uid_t uid) { return closer(uid).waiting() < kClosingMax; }
  // sweep forgets users that have nothing here any more.
  void sweep();

 private:
  struct Account {
    explicit Account(const std::shared_ptr<LastCopies>& last_copies)
        : closer(last_copies), connection_closer(last_copies) {}
    std::size_t clients = 0;
    std::size_t octets = 0;
    Closer closer, connection_closer;
  };
  Account& account(uid_t uid);
  std::shared_ptr<LastCopies> last_copies_ = std::make_shared<LastCopies>();
  std::map<uid_t, Account> accounts_;
  std::size_t clients_ = 0, octets_ = 0;  // of all
};

}  // namespace psp::control
