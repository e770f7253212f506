// SPDX-License-Identifier: Apache-2.0
//
// Delivery brings answers and notifications to the netlink sockets of programs that run with
// libpsp-genl.so: by netlink unicast, out of a socket of our own in the program's network
// namespace, to the port of the program's socket. What a full receive buffer does to the kernel's
// messages it does to ours: parts of a dump wait until the program has read, all else is lost and
// the program is told so (SOFTPSP_OVERRUN_SEQ; the library makes ENOBUFS of it).
//
// No descriptor of a program is kept: its close() must free the port. A socket is known by
// namespace, port and inode: where /proc/net/netlink has the port with another inode, nothing is
// sent that was not just asked for. Anybody can make that table long, so it is read for a small
// part of the control thread's time only, bit by bit; what has closed since, the kernel refuses.
//
// Threading: the control thread only.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <expected>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <sys/types.h>

#include "base/duty_cycle.hh"
#include "base/loop.hh"
#include "base/unique_fd.hh"
#include "netlink/server.hh"

#include "port_table.hh"

namespace psp::control {

class Delivery {
 public:
  // `home_netns` is the cookie of this thread's network namespace.
  Delivery(Loop& loop, std::uint64_t home_netns);
  Delivery(const Delivery&) = delete;
  Delivery& operator=(const Delivery&) = delete;

  // Target is a program's netlink socket.
  struct Target {
    std::uint64_t netns = 0;  // cookie
    std::uint32_t port = 0;
    ino_t inode = 0;
    friend auto operator<=>(const Target&, const Target&) = default;
  };

  // examine looks at a borrowed descriptor and makes ready to send to it. It waits for nothing but
  // the lock of a socket. Port 0: the socket is not bound yet; it can be a member, but nothing is
  // sent to it, as by the kernel. Errors (errno): EINVAL: no NETLINK_GENERIC socket;
  // ENOBUFS: programs in too many namespaces, of
  // all users or of `uid`; what opening a socket there met.
  std::expected<Target, int> examine(int fd, uid_t uid);
  // sender_port is the port that we send from to `target`.
  std::uint32_t sender_port(const Target& target) const;

  // Rest produces what is left of a dump, one datagram a call; an empty one if there is nothing
  // yet, nullopt at its end.
  using Rest = std::function<std::optional<netlink::Datagram>()>;

  // answer sends one answer to a socket whose descriptor `fd` is still held (a program could have
  // connected it to the kernel: that is undone). Wipes it. What does not fit is lost.
  void answer(const Target& target, int fd, netlink::Datagram message, uid_t uid);
  // dump sends all of `rest` that fits and keeps the rest until the program has read. False: this
  // user has too much waiting.
  bool dump(const Target& target, int fd, Rest rest, uid_t uid);
  // dumping: a dump for this socket is not at its end.
  bool dumping(const Target& target) const;

  // join and leave change the socket's membership in multicast groups (SOFTPSP_GROUP_...). Join
  // fails (false) if this user has too many members. `family` is the number under which the program
  // knows psp, where that is the kernel's; 0: ours.
  bool join(const Target& target, std::uint32_t group_bit, uid_t uid, std::uint16_t family = 0);
  void leave(const Target& target, std::uint32_t group_bit);
  // multicast sends a notification to the members in a namespace.
  void multicast(std::uint32_t group_bit, std::uint64_t netns, const netlink::Datagram& message);

  static constexpr std::size_t kMembersMax = 8192;  // a quarter of it a user, but root
  static constexpr std::size_t kWaitingMax = 1024;  // sockets with a dump or a loss; the same
  static constexpr std::size_t kSendersMax = 1024;  // network namespaces but home; the same

 private:
  struct Member {
    std::uint32_t groups = 0;
    uid_t uid = 0;
    std::uint16_t family = 0;
    bool lost_some = false;
    unsigned missed = 0;  // readings of the table in a row that did not have it
  };
  struct Waiting {
    std::optional<netlink::Datagram> next;
    Rest rest;
    bool lost_some = false;
    uid_t uid = 0;
    Loop::Clock::time_point due;
    std::chrono::milliseconds pause{};
  };
  // Sender is our socket in a namespace and the namespace's table of netlink sockets.
  struct Sender {
    UniqueFd socket;
    std::uint32_t port = 0;
    PortTable table;
    uid_t uid = 0;                   // whose program was the first there
    Loop::Clock::time_point read{};  // when the last reading of the table began
  };
  enum class Sent { kYes, kFull, kRefused };

  Sender* sender_for(int fd, std::uint64_t netns, uid_t uid, int& error);
  Sent send(const Target& target, std::span<const std::uint8_t> message);
  Sent notify(const Target& target, std::uint16_t family, const netlink::Datagram& message);
  Sent send_held(const Target& target, int fd, std::span<const std::uint8_t> message);
  void look(std::uint64_t netns, Sender& sender, std::chrono::milliseconds age);
  void count_missed(std::uint64_t netns, const Sender& sender);
  void note_bound(std::uint64_t netns, const Sender& sender);
  static bool reused(const Sender& sender, const Target& target) {
    return sender.table.reused(target.port, target.inode);
  }
  void is_open(const Target& target);
  Waiting* wait_for(const Target& target, uid_t uid);
  void lose(const Target& target, uid_t uid);
  void lose(Member& member);
  std::map<Target, Member>::iterator forget(std::map<Target, Member>::iterator member);
  void tell_losses();
  bool advance(const Target& target, Waiting& waiting);
  void tick();
  void sweep();
  void sweep_members();
  static bool has_room(const std::map<uid_t, std::size_t>& counts, std::size_t all, std::size_t max,
                       uid_t uid);
  static bool may_add(std::map<uid_t, std::size_t>& counts, std::size_t all, std::size_t max,
                      uid_t uid);
  static void release(std::map<uid_t, std::size_t>& counts, uid_t uid);

  Loop& loop_;
  std::uint64_t home_netns_;
  std::map<std::uint64_t, Sender> senders_;
  std::map<Target, Member> members_;
  std::map<Target, Waiting> waiting_;
  std::map<uid_t, std::size_t> members_of_, waiting_of_, senders_of_;
  Target told_;               // the member that was last seen to for its losses
  std::size_t losses_ = 0;    // members with some
  std::uint64_t looked_ = 0;  // the namespace whose table was last read from by tick
  // Of tables: so they are new for each notification, unless they are long.
  DutyCycle looks_{15, std::chrono::milliseconds(300)};
  Loop::Source tick_;   // while something waits or a table is being read
  Loop::Source sweep_;  // while there are senders
};

}  // namespace psp::control
