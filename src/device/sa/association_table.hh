// SPDX-License-Identifier: Apache-2.0
//
// The secured sockets of a host by their cookies, and how many each user has. The associations
// themselves hang on the lists of their device (DeviceRecord), which a rotation moves as a whole.
//
// Threading: the control thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>

#include "device/device_registry.hh"
#include "device/error.hh"
#include "device/sa/association.hh"

namespace psp::device {

// Limits are how many associations there may be, those of sockets that have just gone among them.
// Another network namespace than `home` is one user, whatever users are in it: root of a container
// has thousands. Without a home, users are told apart in all alike.
struct Limits {
  std::size_t all = SIZE_MAX;
  std::size_t of_a_user = SIZE_MAX;     // of one that is not root at home
  std::size_t of_all_users = SIZE_MAX;  // of those together: the rest is root's
  std::optional<std::uint64_t> home{};
};

class AssociationTable {
 public:
  // Entry is where an association is kept.
  struct Entry {
    DeviceRecord* record;
    std::list<Association>::iterator association;
  };

  explicit AssociationTable(const Limits& limits) : limits_(limits) {}

  // find is the association of that socket, or null.
  const Association* find(std::uint64_t cookie) const;
  std::size_t size() const { return by_cookie_.size(); }
  // for_each visits all, in no order.
  void for_each(const std::function<void(const Association&)>& visit) const;

  // For the core. check_room: ENOSPC or EDQUOT (kSockFd) if that user can have no more there.
  Result<void> check_room(std::uint64_t netns, std::uint32_t uid) const;
  // add does `attach` for a new association, active under its device: all of it or nothing.
  Result<void> add(DeviceRecord& record, Association association,
                   const std::function<Result<void>(const Association&)>& attach);
  // put_back is add for one that a list of its device has already.
  void put_back(DeviceRecord& record, std::list<Association>::iterator association);
  // at: null if there is none.
  const Entry* at(std::uint64_t cookie);
  // remove takes an association away. True: its device has no other in that namespace.
  [[nodiscard]] bool remove(std::uint64_t cookie);

 private:
  using User = std::pair<std::uint64_t, std::uint32_t>;  // at home: 0 and the uid
  static constexpr User kRoot{0, 0};
  User user(std::uint64_t netns, std::uint32_t uid) const;
  std::size_t count(User user) const;

  Limits limits_;
  std::unordered_map<std::uint64_t, Entry> by_cookie_;
  std::map<User, std::size_t> of_user_;  // associations
};

}  // namespace psp::device
