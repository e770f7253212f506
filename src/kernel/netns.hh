// SPDX-License-Identifier: Apache-2.0
//
// Network namespaces: naming them, entering them, finding them. pspd is at home in one and works in
// those that its devices are associated with.
//
// Threading: the control thread only. No thread may be started inside InNetns: it would stay there.
#pragma once

#include <cstdint>
#include <expected>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "base/in_netns.hh"
#include "base/unique_fd.hh"

namespace psp::kernel {

// Netns is a network namespace that is held by a socket inside it. Sockets, and so TAPs, keep a
// namespace alive after its last process: who holds some has to look whether anybody else does.
class Netns {
 public:
  // current is the calling thread's, of is that of a descriptor of /proc/PID/ns/net. Errors: a
  // sentence.
  static std::expected<Netns, std::string> current();
  static std::expected<Netns, std::string> of(int descriptor);

  std::uint64_t cookie() const {
    return cookie_;
  }  // as SO_NETNS_COOKIE; unique while the host runs
  int socket() const { return socket_.get(); }
  // descriptor is one of the namespace itself, for InNetns and netlink.
  UniqueFd descriptor() const;

 private:
  Netns(UniqueFd socket, std::uint64_t cookie) : socket_(std::move(socket)), cookie_(cookie) {}
  UniqueFd socket_;
  std::uint64_t cookie_;
};

// NetnsTable are the namespaces that one pspd works in. The first is home.
class NetnsTable {
 public:
  static std::expected<NetnsTable, std::string> open();

  const Netns& home() const { return *find(home_); }
  // find is null for a namespace that is not in the table.
  const Netns* find(std::uint64_t cookie) const;
  bool contains(std::uint64_t cookie) const { return find(cookie) != nullptr; }
  // add takes the namespace in, if it is not there already.
  const Netns& add(Netns netns);
  void remove(std::uint64_t cookie);
  void for_each(const std::function<void(const Netns&)>& visit) const;

 private:
  explicit NetnsTable(Netns home);
  std::map<std::uint64_t, Netns> all_;
  std::uint64_t home_;
};

// for_each_netns visits each network namespace of the host once, by a descriptor: those with a name
// in /run/netns, with a process, or held open by a process. It ends when `visit` returns true.
// `looks` bounds the names, processes and descriptors that it looks at, which any user can have
// many of. False: there were more.
bool for_each_netns(const std::function<bool(int descriptor)>& visit,
                    std::optional<std::size_t> looks = {});

// find_netns looks for a namespace by its cookie.
std::optional<Netns> find_netns(std::uint64_t cookie);
// find_netns_by_id looks for it by the number (nsid) that the current one has for it, with so many
// looks: kTooMany is no proof that there is none.
enum class NotFound { kNone, kTooMany };
std::expected<Netns, NotFound> find_netns_by_id(std::int32_t nsid, std::size_t looks);

// nsid_of is the number that the current namespace has for another one; -1 if it has none.
std::int32_t nsid_of(int descriptor);
// give_nsid is nsid_of, but gives the namespace a number if it has none, as the kernel does where
// it tells of one. -1: it may not.
std::int32_t give_nsid(int descriptor);

}  // namespace psp::kernel
