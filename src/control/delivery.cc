// SPDX-License-Identifier: Apache-2.0
//
// What is sent at once, what waits (tick) and what is forgotten (sweep). A dump waits by itself,
// with a pause that grows while its program does not read; losses of members are told in turn, some
// of them at each tick; and one table of sockets is read on, for a bounded part of the time.
#include "delivery.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <linux/sockios.h>
#include <new>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

#include "base/in_netns.hh"
#include "base/socket_options.hh"
#include <psp/netlink/uapi.h>

#include "envelope.hh"

namespace psp::control {
namespace {

using namespace std::chrono_literals;

constexpr auto kTick = 5ms;
constexpr auto kPauseMax = 320ms;
constexpr auto kSweep = 1000ms;
// How old the table of sockets may be for parts of a dump (no secrets) that go to the same port.
constexpr auto kTableAge = 50ms;
// Its reading takes this long at a time.
constexpr auto kLook = 1ms;
// A walk through the kernel's table may leave out sockets that are there, while it is resized or
// while others before them close: a member has gone when so many in a row did not have it.
constexpr unsigned kMissedMax = 3;
constexpr int kLossesAtOnce = 256;  // members that a tick looks at

}  // namespace

Delivery::Delivery(Loop& loop, std::uint64_t home_netns)
    : loop_(loop),
      home_netns_(home_netns),
      tick_(loop.every(kTick, [this] { tick(); })),
      sweep_(loop.every(kSweep, [this] { sweep(); })) {
  tick_.enable(false);
  sweep_.enable(false);
}

std::expected<Delivery::Target, int> Delivery::examine(int fd, uid_t uid) {
  Target target;
  target.netns = netns_cookie(fd);
  if (get_option<int>(fd, SOL_SOCKET, SO_DOMAIN) != AF_NETLINK ||
      get_option<int>(fd, SOL_SOCKET, SO_PROTOCOL) != NETLINK_GENERIC || target.netns == 0)
    return std::unexpected(EINVAL);
  sockaddr_nl own{};
  socklen_t length = sizeof own;
  struct stat status;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &length) != 0 ||
      ::fstat(fd, &status) != 0)
    return std::unexpected(EINVAL);
  target.port = own.nl_pid;
  target.inode = status.st_ino;
  int error = 0;
  if (sender_for(fd, target.netns, uid, error) == nullptr) return std::unexpected(error);
  return target;
}

std::uint32_t Delivery::sender_port(const Target& target) const {
  const auto found = senders_.find(target.netns);
  return found == senders_.end() ? 0 : found->second.port;
}

Delivery::Sender* Delivery::sender_for(int fd, std::uint64_t netns, uid_t uid, int& error) {
  if (const auto found = senders_.find(netns); found != senders_.end()) return &found->second;
  error = ENOBUFS;
  if (netns != home_netns_ && !has_room(senders_of_, senders_.size(), kSendersMax, uid))
    return nullptr;
  UniqueFd socket, table;
  const auto open = [&] {
    socket =
        UniqueFd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_GENERIC));
    table = UniqueFd(::open("/proc/thread-self/net/netlink", O_RDONLY | O_CLOEXEC));
  };
  if (netns == home_netns_) {
    open();
  } else {
    const UniqueFd there(::ioctl(fd, SIOCGSKNS));
    const InNetns inside(there.get());
    if (inside.entered()) open();
  }
  sockaddr_nl own{};
  own.nl_family = AF_NETLINK;
  socklen_t length = sizeof own;
  if (!socket || !table ||
      ::bind(socket.get(), reinterpret_cast<sockaddr*>(&own), sizeof own) != 0 ||
      ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&own), &length) != 0) {
    error = EPERM;  // of the namespace, or out of descriptors: it is all one to the program
    return nullptr;
  }
  if (senders_.empty()) sweep_.enable(true);
  Sender sender{std::move(socket), own.nl_pid, PortTable(std::move(table)), uid};
  std::size_t& count = senders_of_[uid];
  Sender& added = senders_.emplace(netns, std::move(sender)).first->second;
  if (netns != home_netns_) count++;
  return &added;
}

Delivery::Sent Delivery::send(const Target& target, std::span<const std::uint8_t> message) {
  const auto sender = senders_.find(target.netns);
  if (sender == senders_.end()) return Sent::kRefused;
  sockaddr_nl to{};
  to.nl_family = AF_NETLINK;
  to.nl_pid = target.port;
  for (;;) {
    if (::sendto(sender->second.socket.get(), message.data(), message.size(),
                 MSG_DONTWAIT | MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&to),
                 sizeof to) >= 0)
      return Sent::kYes;
    if (errno == EINTR) continue;
    return errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM ? Sent::kFull : Sent::kRefused;
  }
}

// send_held also reaches a socket that is connected to the kernel, which takes nothing from others.
Delivery::Sent Delivery::send_held(const Target& target, int fd,
                                   std::span<const std::uint8_t> message) {
  const Sent sent = send(target, message);
  if (sent != Sent::kRefused) return sent;
  const sockaddr nobody{.sa_family = AF_UNSPEC, .sa_data = {}};
  if (::connect(fd, &nobody, sizeof nobody) != 0) return sent;
  return send(target, message);
}

// look brings the table of a sender's namespace up to date if it is older than `age`: what our part
// of the time is enough for, and the rest by and by.
void Delivery::look(std::uint64_t netns, Sender& sender, std::chrono::milliseconds age) {
  const auto start = loop_.now();
  if (!looks_.due(start) || (!sender.table.reading() && start - sender.read < age)) return;
  if (!sender.table.reading()) {
    if (!sender.table.start()) return;
    sender.read = start;
  }
  const auto before = loop_.processor_time();
  bool more;
  do {
    more = sender.table.read_page();
  } while (more && loop_.processor_time() - before < kLook);
  looks_.ran(start, loop_.processor_time() - before);
  if (more) {
    tick_.enable(true);
    return;
  }
  note_bound(netns, sender);
  count_missed(netns, sender);
}

// note_bound: members that joined before they were bound have their ports from now on.
void Delivery::note_bound(std::uint64_t netns, const Sender& sender) {
  const auto first = members_.lower_bound({.netns = netns, .port = 0, .inode = 0});
  if (first == members_.end() || first->first.netns != netns || first->first.port != 0) return;
  for (const auto& [port, inode] : sender.table.bound()) {
    const auto member = members_.find({.netns = netns, .port = 0, .inode = inode});
    if (member == members_.end()) continue;
    const auto [now, fresh] =
        members_.try_emplace({.netns = netns, .port = port, .inode = inode}, member->second);
    if (fresh) {
      members_.erase(member);
    } else {
      now->second.groups |= member->second.groups;
      forget(member);
    }
  }
}

void Delivery::count_missed(std::uint64_t netns, const Sender& sender) {
  for (auto it = members_.lower_bound({.netns = netns, .port = 0, .inode = 0});
       it != members_.end() && it->first.netns == netns; ++it) {
    const bool here = sender.table.has(it->first.port, it->first.inode);
    it->second.missed = here ? 0 : it->second.missed + 1;
  }
}

// is_open notes that this socket is there, of which the table may be too old to know.
void Delivery::is_open(const Target& target) {
  const auto sender = senders_.find(target.netns);
  if (sender != senders_.end()) sender->second.table.is_open(target.port, target.inode);
}

bool Delivery::has_room(const std::map<uid_t, std::size_t>& counts, std::size_t all,
                        std::size_t max, uid_t uid) {
  const auto own = counts.find(uid);
  return all < max && (uid == 0 || own == counts.end() || own->second < max / 4);
}

bool Delivery::may_add(std::map<uid_t, std::size_t>& counts, std::size_t all, std::size_t max,
                       uid_t uid) {
  if (!has_room(counts, all, max, uid)) return false;
  counts[uid]++;
  return true;
}

void Delivery::release(std::map<uid_t, std::size_t>& counts, uid_t uid) {
  const auto found = counts.find(uid);
  if (found != counts.end() && --found->second == 0) counts.erase(found);
}

Delivery::Waiting* Delivery::wait_for(const Target& target, uid_t uid) {
  const auto found = waiting_.find(target);
  if (found != waiting_.end()) return &found->second;
  if (!may_add(waiting_of_, waiting_.size(), kWaitingMax, uid)) return nullptr;
  Waiting& waiting = waiting_[target];
  waiting.uid = uid;
  waiting.pause = kTick;
  waiting.due = loop_.now() + kTick;
  is_open(target);
  if (waiting_.size() == 1) tick_.enable(true);
  return &waiting;
}

// lose: a member remembers that itself, others are among those that wait.
void Delivery::lose(const Target& target, uid_t uid) {
  if (const auto member = members_.find(target); member != members_.end())
    return lose(member->second);
  if (Waiting* waiting = wait_for(target, uid)) waiting->lost_some = true;
}

void Delivery::lose(Member& member) {
  if (std::exchange(member.lost_some, true)) return;
  if (losses_++ == 0) tick_.enable(true);
}

// tell_losses looks at some of the members, in turn, and tells those that have lost something.
void Delivery::tell_losses() {
  auto it = members_.upper_bound(told_);
  for (int seen = 0; losses_ != 0 && seen < kLossesAtOnce; seen++) {
    if (it == members_.end()) it = members_.begin();
    auto& [target, member] = *it++;
    told_ = target;
    if (!member.lost_some || send(target, netlink::overrun()) == Sent::kFull) continue;
    member.lost_some = false;
    losses_--;
  }
}

void Delivery::answer(const Target& target, int fd, netlink::Datagram message, uid_t uid) {
  if (send_held(target, fd, message) == Sent::kFull) lose(target, uid);
  netlink::wipe(message);
}

bool Delivery::dump(const Target& target, int fd, Rest rest, uid_t uid) {
  while (auto part = rest()) {
    const Sent sent = part->empty() ? Sent::kFull : send_held(target, fd, *part);
    if (sent == Sent::kRefused) return true;
    if (sent == Sent::kYes) continue;
    Waiting* waiting = wait_for(target, uid);
    if (waiting == nullptr) return false;
    waiting->next = std::move(part);
    waiting->rest = std::move(rest);
    return true;
  }
  return true;
}

bool Delivery::dumping(const Target& target) const {
  const auto found = waiting_.find(target);
  return found != waiting_.end() && found->second.next;
}

// advance sends what waits. True: nothing waits any more.
bool Delivery::advance(const Target& target, Waiting& waiting) {
  const auto sender = senders_.find(target.netns);
  if (sender == senders_.end()) return true;
  look(target.netns, sender->second, kTableAge);
  if (reused(sender->second, target)) return true;
  bool moved = false;
  if (waiting.next && waiting.next->empty()) waiting.next = waiting.rest();
  while (waiting.next && !waiting.next->empty()) {
    const Sent sent = send(target, *waiting.next);
    if (sent == Sent::kRefused) return true;
    if (sent == Sent::kFull) break;
    moved = true;
    waiting.next = waiting.rest();
  }
  if (!waiting.next && waiting.lost_some) {
    waiting.lost_some = send(target, netlink::overrun()) == Sent::kFull;
  }
  if (!waiting.next && !waiting.lost_some) return true;
  waiting.pause = moved ? std::chrono::milliseconds(kTick)
                        : std::min<std::chrono::milliseconds>(waiting.pause * 2, kPauseMax);
  waiting.due = loop_.now() + waiting.pause;
  return false;
}

void Delivery::tick() {
  const auto now = loop_.now();
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    Waiting& waiting = it->second;
    if (waiting.due > now || !advance(it->first, waiting)) {
      ++it;
      continue;
    }
    release(waiting_of_, waiting.uid);
    it = waiting_.erase(it);
  }
  tell_losses();
  // One table a tick, in turn: more is not our part of the time.
  const auto reading = [](auto& entry) { return entry.second.table.reading(); };
  auto next = std::find_if(senders_.upper_bound(looked_), senders_.end(), reading);
  if (next == senders_.end()) next = std::find_if(senders_.begin(), senders_.end(), reading);
  if (next != senders_.end()) look(looked_ = next->first, next->second, 0ms);
  if (waiting_.empty() && losses_ == 0 && std::ranges::none_of(senders_, reading))
    tick_.enable(false);
}

bool Delivery::join(const Target& target, std::uint32_t group_bit, uid_t uid,
                    std::uint16_t family) {
  is_open(target);
  const auto found = members_.find(target);
  if (found != members_.end()) {
    found->second.groups |= group_bit;
    found->second.family = family;
    found->second.missed = 0;
    return true;
  }
  const auto add = [&] { return may_add(members_of_, members_.size(), kMembersMax, uid); };
  if (!add()) {
    sweep_members();
    if (!add()) return false;
  }
  members_[target] = {.groups = group_bit, .uid = uid, .family = family};
  return true;
}

void Delivery::leave(const Target& target, std::uint32_t group_bit) {
  if (target.port != 0) leave({target.netns, 0, target.inode}, group_bit);  // bound since it joined
  const auto found = members_.find(target);
  if (found == members_.end()) return;
  found->second.groups &= ~group_bit;
  if (found->second.groups == 0) forget(found);
}

std::map<Delivery::Target, Delivery::Member>::iterator Delivery::forget(
    std::map<Target, Member>::iterator member) {
  release(members_of_, member->second.uid);
  if (member->second.lost_some) losses_--;
  return members_.erase(member);
}

void Delivery::multicast(std::uint32_t group_bit, std::uint64_t netns,
                         const netlink::Datagram& message) {
  const auto sender = senders_.find(netns);
  if (sender == senders_.end()) return;
  look(netns, sender->second, 0ms);
  for (auto it = members_.lower_bound({.netns = netns, .port = 0, .inode = 0});
       it != members_.end() && it->first.netns == netns; ++it) {
    if (it->first.port == 0 || (it->second.groups & group_bit) == 0 ||
        reused(sender->second, it->first))
      continue;
    if (message.empty() || notify(it->first, it->second.family, message) == Sent::kFull)
      lose(it->second);
  }
}

Delivery::Sent Delivery::notify(const Target& target, std::uint16_t family,
                                const netlink::Datagram& message) {
  if (family == 0) return send(target, message);
  try {
    netlink::Datagram renamed = message;
    rename_messages(renamed, SOFTPSP_ID_PSP, family);
    return send(target, renamed);
  } catch (const std::bad_alloc&) {
    return Sent::kFull;  // lost, and it is told so
  }
}

void Delivery::sweep_members() {
  for (auto& [netns, sender] : senders_) look(netns, sender, kTableAge);
  for (auto it = members_.begin(); it != members_.end();)
    it = it->second.missed >= kMissedMax || !senders_.contains(it->first.netns) ? forget(it)
                                                                                : std::next(it);
}

// sweep forgets sockets that are closed, and leaves namespaces where none is left: our socket would
// keep them from going away.
void Delivery::sweep() {
  if (!members_.empty()) sweep_members();
  std::erase_if(senders_, [this](auto& entry) {
    const auto here = [&](auto& other) { return other.first.netns == entry.first; };
    if (entry.first == home_netns_ || std::any_of(members_.begin(), members_.end(), here) ||
        std::any_of(waiting_.begin(), waiting_.end(), here))
      return false;
    release(senders_of_, entry.second.uid);
    return true;
  });
}

}  // namespace psp::control
