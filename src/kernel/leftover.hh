// SPDX-License-Identifier: Apache-2.0
//
// Leftover: what a pspd that did not stop cleanly left on the host, how it is found, and how it is
// removed. Its programs block what it had secured; they go only when nothing of that is alive.
//
// Threading: the control thread only.
#pragma once

#include <cstdint>
#include <expected>
#include <functional>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "netdev.hh"
#include "netns.hh"
#include "programs.hh"
#include "sock_diag.hh"

namespace psp::kernel {

struct Leftover {
  SharedMaps maps;
  std::uint32_t assoc_map_id = 0;       // of the associations, which a next pspd inherits
  std::uint32_t constants_map_id = 0;   // of its socket programs' constants, its own alone
  std::vector<std::uint32_t> programs;  // ids of those at the cgroup root
  bool inherited = false;  // a pspd that lives has its maps: no more than its programs are left
  std::vector<device::NetdevKey> netdevs;  // all that have its programs; ifindex 0: a namespace
                                           // where sockets may be secured
};

// find_leftovers finds those of dead pspds by their programs at the cgroup root. Errors, here and
// below: a sentence.
[[nodiscard]] std::expected<std::vector<Leftover>, std::string> find_leftovers();

// find_leftover_at finds by the programs at a netdev of the current namespace, which this process
// has locked: whoever put them there is dead, or lives and has lost the netdev, which is nothing
// left. Nothing if there are none; also what find_leftovers does not, when only they were left.
[[nodiscard]] std::expected<std::optional<Leftover>, std::string> find_leftover_at(
    const Netdev& netdev);

// left_by_itself is what a pspd that lives still has on netdevs, by its own psp_assoc and
// psp_guard.
[[nodiscard]] std::expected<Leftover, std::string> left_by_itself(int assoc_map, int guard_map);

// read_restore reads which settings of a netdev an earlier pspd meant to put back (PSP_RESTORE_*).
[[nodiscard]] std::expected<std::uint32_t, std::string> read_restore(const Netdev& netdev);

// restore_netdev takes all programs of ours off a netdev of the current namespace, with what
// `restore` says: what is in it is put back before the programs that tell of it go.
[[nodiscard]] std::expected<void, std::string> restore_netdev(const Netdev& netdev,
                                                              std::uint32_t restore);

// remove_from takes an earlier pspd's programs off a netdev of the current namespace, with the
// clsact it made, and puts the netdev's settings back. Only if they are of that pspd.
[[nodiscard]] std::expected<void, std::string> remove_from(const Netdev& netdev,
                                                           const Leftover& leftover);

// remove_from_cgroup takes its programs off the cgroup root. Nothing blocks its sockets then.
[[nodiscard]] std::expected<void, std::string> remove_from_cgroup(const Leftover& leftover);

// Ended is what became of secured sockets.
struct Ended {
  std::unordered_set<std::uint64_t> aborted;  // cookies
  // Listed, and not to be aborted (a kernel without CONFIG_INET_DIAG_DESTROY).
  std::size_t left = 0;
};

// SecuredMaps are psp_assoc and psp_noted (-1: there is none) of one pspd.
struct SecuredMaps {
  int assoc = -1, noted = -1;
};

// Which tells the sockets that are meant; an empty one means all.
using Which = std::function<bool(const SecuredSocket&)>;

// end_secured_sockets aborts every socket of psp_assoc that has a Tx key and that the kernel
// lists, in all namespaces of the table, if it is one of `which`: without its keys it could only go
// on in clear. `ended` has what earlier tries have aborted, and gets what this one does. Errors: a
// sentence; what is in the other namespaces has ended then.
[[nodiscard]] std::expected<void, std::string> end_secured_sockets(const SecuredMaps& maps,
                                                                   const NetnsTable& namespaces,
                                                                   const Which& which,
                                                                   Ended& ended);

// Noted is a socket of psp_noted.
struct Noted {
  std::uint64_t cookie = 0;
  bool released = false;  // its application has closed it
  bool over = false;      // its connection has ended in the way of TCP, or was aborted
};

// noted_sockets are all that were given a Tx key and that no pspd has seen end yet; where the notes
// are another version's, it is not known which of them are closed or over. Errors: a sentence.
std::expected<std::vector<Noted>, std::string> noted_sockets(int noted_map);

// count_unseen counts those of them that nobody has seen end: neither closed, over nor aborted.
// They are in no listing of the kernel, as after connect() to AF_UNSPEC, and can connect again.
std::size_t count_unseen(std::span<const Noted> noted,
                         const std::unordered_set<std::uint64_t>& aborted);

}  // namespace psp::kernel
