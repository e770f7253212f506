// SPDX-License-Identifier: Apache-2.0
//
// Accounts: what each user of the host costs pspd, and how much of that may be: connections, octets
// that wait for clients which do not read, descriptors whose close() hangs. One user can have a
// quarter of what there is, so that four are needed to leave others without; root has some that
// nobody else can take.
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
  static constexpr std::size_t kClosingMax = 256;      // descriptors of a user that hang in close()
  static constexpr std::size_t kOctetsMax = 16 << 20;  // held for clients; a quarter a user

  enum class Admission {
    kWelcome,
    kFull,     // to be closed: the user, or pspd, has enough
    kHanging,  // not even closing is safe: too many of the user's hang in close()
  };
  Admission admission(uid_t uid);
  // enter and leave count a connection.
  void enter(uid_t uid);
  void leave(uid_t uid);
  // hold counts `octets` for a connection that had `held` before. False: this user, or all of them,
  // would hold too much; it is counted all the same.
  bool hold(uid_t uid, std::size_t held, std::size_t octets);
  // closer is the user's.
  Closer& closer(uid_t uid) { return account(uid).closer; }
  // may_go_on: few enough of the user's descriptors hang in close().
  bool may_go_on(uid_t uid) { return closer(uid).waiting() < kClosingMax; }
  // sweep forgets users that have nothing here any more.
  void sweep();

 private:
  struct Account {
    explicit Account(std::shared_ptr<LastCopies> last_copies) : closer(std::move(last_copies)) {}
    std::size_t clients = 0;
    std::size_t octets = 0;
    Closer closer;
  };
  Account& account(uid_t uid);
  std::shared_ptr<LastCopies> last_copies_ = std::make_shared<LastCopies>();
  std::map<uid_t, Account> accounts_;
  std::size_t clients_ = 0, octets_ = 0;  // of all
};

}  // namespace psp::control
