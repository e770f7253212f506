// SPDX-License-Identifier: Apache-2.0
//
// The limits are looked at when somebody comes and when octets are held; all else only counts. A
// user's account lasts as long as something of the user's is here, a close() that hangs included.
//
// Octets are counted even where the answer is no: the caller drops that client, and gives back by a
// call with 0 what was counted for it.
#include "accounts.hh"

namespace psp::control {

Accounts::Account& Accounts::account(uid_t uid) {
  return accounts_.try_emplace(uid, last_copies_).first->second;
}

Accounts::Admission Accounts::admission(uid_t uid) {
  const Account& user = account(uid);
  const std::size_t closing = user.closer.waiting();
  const bool room = uid == 0
                        ? clients_ < kClientsMax
                        : clients_ < kClientsMax - kClientsOfRoot && user.clients < kClientsMax / 4;
  if (room && closing < kClosingMax) return Admission::kWelcome;
  return closing >= 4 * kClosingMax ? Admission::kHanging : Admission::kFull;
}

void Accounts::enter(uid_t uid) {
  account(uid).clients++;
  clients_++;
}

void Accounts::leave(uid_t uid) {
  account(uid).clients--;
  clients_--;
}

bool Accounts::hold(uid_t uid, std::size_t held, std::size_t octets) {
  Account& user = account(uid);
  user.octets += octets - held;
  octets_ += octets - held;
  return octets_ <= kOctetsMax && (uid == 0 || user.octets <= kOctetsMax / 4);
}

void Accounts::sweep() {
  if (accounts_.size() <= 1) return;
  std::erase_if(accounts_, [](auto& entry) {
    return entry.second.clients == 0 && entry.second.closer.waiting() == 0;
  });
}

}  // namespace psp::control
