// SPDX-License-Identifier: Apache-2.0
//
// Each association counts in three places: the cookies, its user's number, and that of its device
// in its namespace. A new one has all three before its socket is attached, for after that nothing
// may fail.
//
// Threading: see association_table.hh.
#include "device/sa/association_table.hh"

#include <cerrno>
#include <utility>

#include "device/rollback.hh"

namespace psp::device {

const Association* AssociationTable::find(std::uint64_t cookie) const {
  const auto it = by_cookie_.find(cookie);
  return it != by_cookie_.end() ? &*it->second.association : nullptr;
}

void AssociationTable::for_each(const std::function<void(const Association&)>& visit) const {
  for (const auto& [cookie, entry] : by_cookie_) visit(*entry.association);
}

const AssociationTable::Entry* AssociationTable::at(std::uint64_t cookie) {
  const auto it = by_cookie_.find(cookie);
  return it != by_cookie_.end() ? &it->second : nullptr;
}

AssociationTable::User AssociationTable::user(std::uint64_t netns, std::uint32_t uid) const {
  return !limits_.home || netns == *limits_.home ? User{0, uid} : User{netns, 0};
}

std::size_t AssociationTable::count(User user) const {
  const auto found = of_user_.find(user);
  return found == of_user_.end() ? 0 : found->second;
}

Result<void> AssociationTable::check_room(std::uint64_t netns, std::uint32_t uid) const {
  const User who = user(netns, uid);
  const std::size_t all = by_cookie_.size();
  if (who != kRoot && count(who) >= limits_.of_a_user)
    return fail(EDQUOT, "Too many PSP associations of this user", Field::kSockFd);
  if (all >= limits_.all || (who != kRoot && all - count(kRoot) >= limits_.of_all_users))
    return fail(ENOSPC, "Too many PSP associations", Field::kSockFd);
  return {};
}

Result<void> AssociationTable::add(DeviceRecord& record, Association association,
                                   const std::function<Result<void>(const Association&)>& attach) {
  std::list<Association> fresh{association};
  const Association& added = fresh.front();
  Counted in_netns(record.in_netns, added.netdev.netns);
  Counted of_user(of_user_, user(added.netdev.netns, added.uid));
  Inserted by_cookie(by_cookie_, added.cookie, Entry{&record, fresh.begin()});
  if (auto attached = attach(added); !attached) return attached;
  record.active.splice(record.active.end(), fresh);
  by_cookie.commit();
  in_netns.commit();
  of_user.commit();
  return {};
}

void AssociationTable::put_back(DeviceRecord& record,
                                std::list<Association>::iterator association) {
  by_cookie_.emplace(association->cookie, Entry{&record, association});
  ++record.in_netns[association->netdev.netns];
  ++of_user_[user(association->netdev.netns, association->uid)];
}

bool AssociationTable::remove(std::uint64_t cookie) {
  const auto it = by_cookie_.find(cookie);
  const auto [record, association] = it->second;
  by_cookie_.erase(it);
  uncount(of_user_, user(association->netdev.netns, association->uid));
  const bool last = uncount(record->in_netns, association->netdev.netns);
  record->list_of(*association).erase(association);
  return last;
}

}  // namespace psp::device
