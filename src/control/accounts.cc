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
  const bool room = uid == 0
                        ? clients_ < kClientsMax
                        : clients_ < kClientsMax - kClientsOfRoot && user.clients < kClientsMax / 4;
  if (user.connection_closer.waiting() >= kEndingMax) return Admission::kLater;
  return room && user.closer.waiting() < kClosingMax ? Admission::kWelcome : Admission::kFull;
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
    const Account& user = entry.second;
    return user.clients == 0 && user.closer.waiting() + user.connection_closer.waiting() == 0;
  });
}

}  // namespace psp::control
