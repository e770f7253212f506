// SPDX-License-Identifier: Apache-2.0
#include "control_socket.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <fmt/format.h>
#include <linux/netlink.h>
#include <linux/sockios.h>
#include <list>
#include <map>
#include <mutex>
#include <new>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <psp/netlink/credentials.hh>
#include <psp/netlink/uapi.h>

#include "closer.hh"
#include "delivery.hh"
#include "envelope.hh"
#include "fair_share.hh"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

namespace psp {
namespace {

using namespace std::chrono_literals;

// SCM_MAX_FD: what does not fit into our buffer the kernel would close, and we would wait for it.
constexpr std::size_t kDescriptorsMax = 253;
constexpr std::size_t kDescriptorsOfUse = 2;  // more than that is no request
constexpr auto kRetry = 5ms;
constexpr auto kRetryMax = 320ms;
constexpr auto kAcceptPause = 100ms;
constexpr auto kNobody = static_cast<uid_t>(-1);  // whose time it takes to accept
// What the kernel holds of our answers for one client (it doubles the number).
constexpr int kSendBuffer = 32 * 1024;
// What notifications leave of that, for the sign that some were lost.
constexpr std::size_t kSignRoom = 4096;
// Messages of one datagram are answered in portions, as their answers are taken; others have their
// turn after some of them, or after as many parts of a dump, each up to 32 KiB.
constexpr std::size_t kPortion = 16;
constexpr std::size_t kAnswersMax = 16 * 1024;
constexpr std::size_t kOverhead = 64;  // of an answer that is held
constexpr int kPortionsAtOnce = 4;
constexpr auto kTurn = 1ms;  // after this, too, others have their turn

// Received is one datagram and all that came with it.
struct Received {
  enum class Kind { kDatagram, kNothing, kEnd, kBroken } kind = Kind::kNothing;
  std::span<std::uint8_t> octets{};
  std::vector<UniqueFd> fds{};
};

// receive owns every descriptor that came with a message, so that none stays behind. It needs
// SO_PASSCRED: an empty message carries credentials, the end of the connection does not.
Received receive(int fd, std::span<std::uint8_t> room) {
  iovec part{room.data(), room.size()};
  alignas(
      cmsghdr) char control[CMSG_SPACE(kDescriptorsMax * sizeof(int)) + CMSG_SPACE(sizeof(ucred))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t n = ::recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
  Received received;
  if (n < 0) {
    if (errno != EAGAIN && errno != EINTR) received.kind = Received::Kind::kBroken;
    return received;
  }
  bool credentials = false;
  for (cmsghdr* row = CMSG_FIRSTHDR(&message); row != nullptr; row = CMSG_NXTHDR(&message, row)) {
    if (row->cmsg_level != SOL_SOCKET) continue;
    if (row->cmsg_type == SCM_CREDENTIALS) credentials = true;
    if (row->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (row->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; i++) {
      int one;
      std::memcpy(&one, CMSG_DATA(row) + i * sizeof one, sizeof one);
      received.fds.emplace_back(one);
    }
  }
  // A request that is cut off cannot be answered as netlink would: its sender is no netlink client.
  const bool whole = n > 0 && (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0 &&
                     received.fds.size() <= kDescriptorsOfUse;
  received.kind = whole                    ? Received::Kind::kDatagram
                  : n == 0 && !credentials ? Received::Kind::kEnd
                                           : Received::Kind::kBroken;
  received.octets = room.first(static_cast<std::size_t>(n));
  return received;
}

template <typename T>
T option(int fd, int level, int name, T fallback) {
  T value = fallback;
  socklen_t length = sizeof value;
  return ::getsockopt(fd, level, name, &value, &length) == 0 ? value : fallback;
}

// can_ask_later: the kernel tells us even later which process it was that connected.
bool can_ask_later(int fd) {
  static const bool can = [fd] {
    int pidfd = -1;
    socklen_t length = sizeof pidfd;
    const bool given = ::getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length) == 0;
    const UniqueFd owned(given ? pidfd : -1);
    return given || errno != ENOPROTOOPT;
  }();
  return can;
}

// raise_limit: every client is a descriptor, and running out of them concerns everybody.
void raise_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

// Account is what one user costs us.
struct Account {
  std::size_t clients = 0;
  std::size_t octets = 0;  // held for clients that do not read
  Closer closer{};
};

}  // namespace

struct ControlSocket::Client {
  UniqueFd fd{};
  uid_t uid = 0;
  bool judged = false;  // caller.net_admin was found out at accept
  netlink::Caller caller{};
  std::vector<std::uint8_t> request{};  // what is not answered yet
  std::vector<UniqueFd> fds{};          // that came with it
  std::deque<netlink::Datagram> answers{};
  std::size_t sent = 0;
  bool waiting = false;         // answers wait
  bool lost_some = false;       // notifications; it has been told, or the sign is among `answers`
  std::size_t send_buffer = 0;  // as the kernel counts
  std::size_t held = 0;         // of the account's octets
  EventLoop::Source readable{};
  std::chrono::steady_clock::time_point due{};  // while answers wait
  std::chrono::milliseconds pause{};
  FairShare::Place place{};
  std::list<Client>::iterator self{};
};

class ControlSocket::Hub {
 public:
  Hub(EventLoop& loop, netlink::Server& server);
  ~Hub() { server_.set_multicast({}); }
  Hub(const Hub&) = delete;
  Hub& operator=(const Hub&) = delete;

  static std::shared_ptr<Hub> of(EventLoop& loop, netlink::Server& server);
  // complete: it knows where it is; else it could not tell root of this namespace from others.
  bool complete() const { return home_netns_ != 0 && delivery_.complete(); }

  // welcome takes an accepted connection, or returns it if there is nothing to be done with it now.
  UniqueFd welcome(UniqueFd fd);
  EventLoop& loop() { return loop_; }

  // enter and leave: a listener has its share as a process has. turn does a step of its work.
  FairShare::Place enter(uid_t uid, pid_t pid) { return share_.enter(uid, pid); }
  void leave(const FairShare::Place& place) { share_.leave(*place.flow); }
  template <typename Step>
  void turn(FairShare::Place& place, const Step& step);

 private:
  void take_turn(Client& client, void (Hub::*step)(Client&));
  void serve(Client& client);
  bool listen_to(Client& client);
  void work(Client& client);
  bool produce(Client& client);
  void answer_portion(Client& client);
  static bool idle(const Client& client);
  bool hold(Client& client);
  netlink::Datagram open(Client& client, const Envelope& envelope, std::span<UniqueFd> fds);
  int forward(Client& client, std::span<const std::uint8_t> message, const Delivery::Target& target,
              int netlink_fd, int sock_fd);
  void judge(Client& client, std::span<const std::uint8_t> messages);
  bool flush(Client& client);
  void tick();
  void wait(Client& client);
  bool notify(Client& client, const netlink::Datagram& message);
  void lose(Client& client);
  void drop(Client& client, bool empty = false);
  void reap();
  void multicast(std::uint32_t group_bit, std::uint64_t netns, const netlink::Datagram& message);

  EventLoop& loop_;
  netlink::Server& server_;
  std::list<Client> clients_;
  std::list<Client> gone_;
  std::vector<Client*> waiting_;
  // Root of another namespace is a user like all others.
  uid_t account_of(uid_t uid, std::uint64_t netns) const {
    constexpr uid_t kRootElsewhere = static_cast<uid_t>(-2);
    return uid == 0 && netns != home_netns_ ? kRootElsewhere : uid;
  }
  std::uint64_t home_netns_ = 0;
  FairShare share_;
  std::chrono::steady_clock::time_point turn_end_{};  // of the client that is at work
  std::map<uid_t, Account> accounts_;
  std::size_t octets_ = 0;  // of all accounts
  Delivery delivery_;
  EventLoop::Source tick_ = loop_.every(kRetry, [this] { tick(); });  // while answers wait
  std::unique_ptr<std::uint8_t[]> request_ = std::make_unique<std::uint8_t[]>(kRequestMax);
};

ControlSocket::Hub::Hub(EventLoop& loop, netlink::Server& server)
    : loop_(loop), server_(server), delivery_(loop) {
  raise_limit();
  tick_.enable(false);
  const UniqueFd probe(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  home_netns_ = option(probe.get(), SOL_SOCKET, SO_NETNS_COOKIE, home_netns_);
  server_.set_multicast(
      [this](std::uint32_t group_bit, std::uint64_t netns, const netlink::Datagram& message) {
        multicast(group_bit, netns, message);
      });
}

std::shared_ptr<ControlSocket::Hub> ControlSocket::Hub::of(EventLoop& loop,
                                                           netlink::Server& server) {
  static std::mutex mutex;  // tests run a daemon in a thread
  static std::map<std::pair<EventLoop*, netlink::Server*>, std::weak_ptr<Hub>> hubs;
  const std::lock_guard lock(mutex);
  std::erase_if(hubs, [](auto& entry) { return entry.second.expired(); });
  std::weak_ptr<Hub>& known = hubs[{&loop, &server}];
  std::shared_ptr<Hub> hub = known.lock();
  if (hub == nullptr) known = hub = std::make_shared<Hub>(loop, server);
  return hub;
}

UniqueFd ControlSocket::Hub::welcome(UniqueFd fd) {
  reap();
  const ucred peer = option(fd.get(), SOL_SOCKET, SO_PEERCRED, ucred{0, ~0u, ~0u});
  // An accepted socket belongs to the namespace of the socket that connected.
  const auto netns = option(fd.get(), SOL_SOCKET, SO_NETNS_COOKIE, std::uint64_t{0});
  const uid_t uid = account_of(peer.uid, netns);
  Account& account = accounts_[uid];
  const std::size_t closing = account.closer.waiting();
  const bool room = uid == 0 ? clients_.size() < kClientsMax
                             : clients_.size() < kClientsMax - kClientsOfRoot &&
                                   account.clients < kClientsMax / 4;
  if (!room || closing >= kClosingMax) {
    // Even closing it may hang: what it has sent may hold descriptors.
    if (closing >= 4 * kClosingMax) return fd;
    account.closer.take_later(std::move(fd));
    return {};
  }
  const int on = 1;
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0 ||
      ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDBUF, &kSendBuffer, sizeof kSendBuffer) != 0) {
    account.closer.take_later(std::move(fd));  // nobody would know who asks, or what that costs
    return {};
  }
  // What takes memory comes first: nothing is to be undone where there is none.
  if (waiting_.capacity() <= clients_.size()) waiting_.reserve(2 * clients_.size() + 1);
  std::list<Client> fresh(1);
  Client& client = fresh.back();
  client.place = enter(uid, peer.pid);
  client.self = fresh.begin();
  client.fd = std::move(fd);
  client.send_buffer = static_cast<std::size_t>(option(client.fd.get(), SOL_SOCKET, SO_SNDBUF, 0));
  client.uid = uid;
  client.caller.paced = true;
  client.caller.uid = peer.uid;
  client.caller.pid = peer.pid;
  client.caller.netns = netns;
  if (!can_ask_later(client.fd.get())) {
    client.caller.net_admin = netlink::peer_has_net_admin(client.fd.get());
    client.judged = true;
  }
  if (!listen_to(client)) {
    leave(client.place);
    account.closer.take_later(std::move(client.fd));
    return {};
  }
  clients_.splice(clients_.end(), fresh);
  account.clients++;
  return {};
}

template <typename Step>
void ControlSocket::Hub::turn(FairShare::Place& place, const Step& step) {
  const auto start = std::chrono::steady_clock::now();
  turn_end_ = start + kTurn;
  share_.begin(place.stamp);
  step();
  place.stamp = share_.charge(*place.flow, std::chrono::steady_clock::now() - start);
}

// take_turn: a client for whom memory runs out is dropped, and costs nobody else anything.
void ControlSocket::Hub::take_turn(Client& client, void (Hub::*step)(Client&)) {
  turn(client.place, [&] {
    try {
      (this->*step)(client);
    } catch (const std::bad_alloc&) {
      if (client.fd) drop(client);
    }
  });
  client.readable.set_order(client.place.stamp);
}

// listen_to: false if the kernel has no memory to watch the client with.
bool ControlSocket::Hub::listen_to(Client& client) {
  auto readable =
      loop_.try_on_readable(client.fd.get(), [this, &client] { take_turn(client, &Hub::serve); });
  if (!readable) return false;
  client.readable = std::move(*readable);
  client.readable.set_order(client.place.stamp);
  return true;
}

// drop ends a connection; `empty`: nothing can be left in it. Called from the client's own
// callback: what runs is kept until the next connection comes. Takes no memory that it needs.
void ControlSocket::Hub::drop(Client& client, bool empty) {
  client.readable = {};
  std::erase(waiting_, &client);
  for (netlink::Datagram& answer : client.answers) netlink::wipe(answer);
  client.answers.clear();
  if (!client.request.empty()) netlink::wipe(client.request);
  client.request.clear();
  client.caller.dump.reset();
  Account& account = accounts_[client.uid];
  account.clients--;
  account.octets -= client.held;
  octets_ -= std::exchange(client.held, 0);
  for (UniqueFd& fd : client.fds) account.closer.take(std::move(fd));
  client.fds.clear();
  if (empty)
    client.fd.reset();
  else
    account.closer.take_later(std::move(client.fd));
  gone_.splice(gone_.end(), clients_, client.self);
}

void ControlSocket::Hub::reap() {
  for (const Client& client : gone_) leave(client.place);
  gone_.clear();
  if (accounts_.size() > 1)
    std::erase_if(accounts_, [](auto& entry) {
      return entry.second.clients == 0 && entry.second.closer.waiting() == 0;
    });
}

void ControlSocket::Hub::serve(Client& client) {
  Received received = receive(client.fd.get(), {request_.get(), kRequestMax});
  if (received.kind == Received::Kind::kNothing) return;
  const bool whole = received.kind == Received::Kind::kDatagram;
  if (whole && is_envelope(received.octets)) {
    const auto envelope = read_envelope(received.octets);
    client.answers.push_back(envelope ? open(client, *envelope, received.fds)
                                      : envelope_failed({}, EINVAL));
  } else if (whole) {
    client.request.assign(received.octets.begin(), received.octets.end());
    client.fds = std::exchange(received.fds, {});
    answer_portion(client);
  }
  // Closed before the caller hears: it may close its own and expect a FIN.
  Closer& closer = accounts_[client.uid].closer;
  for (UniqueFd& fd : received.fds) closer.take(std::move(fd));
  if (!received.octets.empty()) netlink::wipe(received.octets);
  if (!whole || closer.waiting() >= kClosingMax)
    return drop(client, received.kind == Received::Kind::kEnd);
  work(client);
}

// idle: the client has all that it asked for.
bool ControlSocket::Hub::idle(const Client& client) {
  return client.answers.empty() && client.request.empty() && !client.caller.dump;
}

// work sends what there is to send and makes more of it, for as long as the client takes it. Then,
// until all is sent, the client is not heard.
void ControlSocket::Hub::work(Client& client) {
  const std::size_t before = client.sent;
  for (int portions = 0;; portions++) {
    if (!flush(client)) return drop(client);
    if (!client.answers.empty() || portions == kPortionsAtOnce ||
        std::chrono::steady_clock::now() >= turn_end_ || !produce(client))
      break;
  }
  if (!hold(client)) return drop(client);
  if (idle(client)) {
    if (!client.waiting) return;
    client.waiting = false;
    std::erase(waiting_, &client);
    if (!client.readable.enable(true)) drop(client);
    return;
  }
  client.pause = !client.waiting || client.sent != before
                     ? std::chrono::milliseconds(kRetry)
                     : std::min<std::chrono::milliseconds>(client.pause * 2, kRetryMax);
  wait(client);
}

// wait: the client is not heard until its answers are sent; tick sees to that.
void ControlSocket::Hub::wait(Client& client) {
  client.due = std::chrono::steady_clock::now() + client.pause;
  if (std::exchange(client.waiting, true)) return;
  client.readable.enable(false);
  waiting_.push_back(&client);
  if (waiting_.size() == 1) tick_.enable(true);
}

// produce makes the next answers: a dump goes on while it is read, then come further messages.
bool ControlSocket::Hub::produce(Client& client) {
  if (idle(client)) return false;
  std::vector<netlink::Datagram> parts;
  if (server_.resume(client.caller, parts)) {
    for (netlink::Datagram& part : parts) client.answers.push_back(std::move(part));
  } else {
    answer_portion(client);
  }
  return true;
}

// hold counts what waits for the client. False: this user, or all of them, would hold too much.
bool ControlSocket::Hub::hold(Client& client) {
  std::size_t octets = client.request.size();
  for (const netlink::Datagram& answer : client.answers) octets += answer.size() + kOverhead;
  Account& account = accounts_[client.uid];
  account.octets += octets - client.held;
  octets_ += octets - client.held;
  client.held = octets;
  return octets_ <= kOctetsMax && (client.uid == 0 || account.octets <= kOctetsMax / 4);
}

// judge finds out whether the caller may do what only CAP_NET_ADMIN may, each time that it asks.
void ControlSocket::Hub::judge(Client& client, std::span<const std::uint8_t> messages) {
  if (!client.judged)
    client.caller.net_admin =
        needs_net_admin(messages) && netlink::peer_has_net_admin(client.fd.get());
}

// answer_portion answers the next messages of the client's request.
void ControlSocket::Hub::answer_portion(Client& client) {
  std::size_t octets = 0;
  std::vector<netlink::Datagram> answers;
  judge(client, client.request);
  while (!client.request.empty() && octets < kAnswersMax) {
    const std::size_t size = size_of_messages(client.request, kPortion);
    const std::size_t taken = size != 0 ? size : client.request.size();  // the rest is garbage
    if (size != 0)
      server_.handle(client.caller, std::span(client.request).first(size),
                     client.fds.empty() ? -1 : client.fds.front().get(), answers);
    netlink::wipe(std::span(client.request).first(taken));
    const std::size_t left = client.request.size() - taken;
    std::copy_n(client.request.begin() + static_cast<std::ptrdiff_t>(taken), left,
                client.request.begin());
    netlink::wipe(std::span(client.request).last(taken));  // a copy of what has moved
    client.request.resize(left);
    for (netlink::Datagram& answer : answers) {
      octets += answer.size() + kOverhead;
      client.answers.push_back(std::move(answer));
    }
    answers.clear();
    if (std::chrono::steady_clock::now() >= turn_end_) break;
  }
  if (!client.request.empty()) return;
  for (UniqueFd& fd : client.fds) accounts_[client.uid].closer.take(std::move(fd));
  client.fds.clear();
}

// open does what an envelope asks for and returns the reply to the library.
netlink::Datagram ControlSocket::Hub::open(Client& client, const Envelope& envelope,
                                           std::span<UniqueFd> fds) {
  if (fds.empty()) return envelope_failed(envelope, EBADF);
  const auto target = delivery_.examine(fds[0].get());
  if (!target) return envelope_failed(envelope, target.error());
  int error = 0;
  switch (envelope.kind) {
    case Envelope::Kind::kWho:
      break;
    case Envelope::Kind::kJoin:
      if (envelope.group_bit == 0)
        error = EINVAL;
      else if (!delivery_.join(*target, envelope.group_bit, client.uid))
        error = ENOMEM;
      break;
    case Envelope::Kind::kLeave:
      delivery_.leave(*target, envelope.group_bit);
      break;
    case Envelope::Kind::kMessage:
      if (target->port == 0) return envelope_failed(envelope, EINVAL);  // no place for an answer
      error = forward(client, envelope.message, *target, fds[0].get(),
                      fds.size() > 1 ? fds[1].get() : -1);
  }
  return error != 0 ? envelope_failed(envelope, error)
                    : envelope_done(envelope, delivery_.sender_port(*target));
}

// forward answers one message of a program on its netlink socket. The namespace that counts is that
// socket's, as in the kernel. Returns an errno for the program's send().
int ControlSocket::Hub::forward(Client& client, std::span<const std::uint8_t> message,
                                const Delivery::Target& target, int netlink_fd, int sock_fd) {
  judge(client, message);
  netlink::Caller caller;
  caller.net_admin = client.caller.net_admin;
  caller.paced = true;
  caller.netns = target.netns;
  caller.ext_ack = option(netlink_fd, SOL_NETLINK, NETLINK_EXT_ACK, 0) != 0;
  caller.cap_ack = option(netlink_fd, SOL_NETLINK, NETLINK_CAP_ACK, 0) != 0;
  const auto send = [&](netlink::Datagram answer) {
    address_messages(answer, target.port);
    delivery_.answer(target, netlink_fd, std::move(answer), client.uid);
  };
  std::vector<netlink::Datagram> answers;
  if (asks_for_all_families(message)) {
    server_.handle(caller, ask_for_psp(message), -1, answers);
    for (netlink::Datagram& answer : answers) {
      address_messages(answer, target.port, NLM_F_MULTI);
      send(std::move(answer));
    }
    return 0;
  }
  const bool is_dump = asks_for_dump(message);
  if (is_dump && delivery_.dumping(target)) {
    send(busy_error(message, caller));
    return 0;
  }
  server_.handle(caller, message, sock_fd, answers);
  if (!is_dump) {
    for (netlink::Datagram& answer : answers) send(std::move(answer));
    return 0;
  }
  std::deque<netlink::Datagram> parts(std::make_move_iterator(answers.begin()),
                                      std::make_move_iterator(answers.end()));
  auto rest = [&server = server_, caller, parts = std::move(parts),
               port = target.port]() mutable -> std::optional<netlink::Datagram> {
    if (parts.empty()) {
      std::vector<netlink::Datagram> more;
      if (!server.resume(caller, more)) return std::nullopt;
      parts.assign(std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
    }
    netlink::Datagram part = std::move(parts.front());
    parts.pop_front();
    address_messages(part, port);
    return part;
  };
  return delivery_.dump(target, netlink_fd, std::move(rest), client.uid) ? 0 : ENOBUFS;
}

bool ControlSocket::Hub::flush(Client& client) {
  while (!client.answers.empty()) {
    netlink::Datagram& answer = client.answers.front();
    const ssize_t n = ::send(client.fd.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    netlink::wipe(answer);
    client.answers.pop_front();
    client.sent++;
  }
  return true;
}

// tick sees to those whose answers wait, by their stamps, and leaves after a turn what is left to
// the next tick: meanwhile others are heard.
void ControlSocket::Hub::tick() {
  const auto now = std::chrono::steady_clock::now();
  std::vector<Client*> due;
  std::ranges::copy_if(waiting_, std::back_inserter(due),
                       [now](const Client* client) { return client->due <= now; });
  std::ranges::sort(due, {}, [](const Client* client) { return client->place.stamp; });
  for (Client* client : due) {
    take_turn(*client, &Hub::work);
    if (std::chrono::steady_clock::now() >= now + kTurn) break;
  }
  if (waiting_.empty()) tick_.enable(false);
}

// notify sends a notification unless the client does not read; then it is lost, and so are those
// that follow, until all before them is read: a client that has read the sign has missed nothing
// since.
bool ControlSocket::Hub::notify(Client& client, const netlink::Datagram& message) {
  int unread = 0;
  if (::ioctl(client.fd.get(), SIOCOUTQ, &unread) != 0) return false;
  if (client.lost_some && (unread != 0 || !client.answers.empty())) return true;
  client.lost_some = false;
  if (static_cast<std::size_t>(unread) + message.size() + kSignRoom > client.send_buffer)
    return false;
  return ::send(client.fd.get(), message.data(), message.size(), MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
}

// lose tells the client that it has lost notifications: at once, there is room kept for that, but
// behind answers that wait.
void ControlSocket::Hub::lose(Client& client) {
  client.lost_some = true;
  const auto sign = netlink::overrun();
  if (client.answers.empty() &&
      ::send(client.fd.get(), sign.data(), sign.size(), MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
    return;
  try {
    client.answers.emplace_back(sign.begin(), sign.end());
  } catch (const std::bad_alloc&) {  // the end of the connection is a sign too
    ::shutdown(client.fd.get(), SHUT_RDWR);
    return;
  }
  client.pause = kRetry;
  wait(client);
}

void ControlSocket::Hub::multicast(std::uint32_t group_bit, std::uint64_t netns,
                                   const netlink::Datagram& message) {
  for (Client& client : clients_)
    if (client.fd && client.caller.netns == netns && client.caller.groups & group_bit &&
        (message.empty() || !notify(client, message)))
      lose(client);
  delivery_.multicast(group_bit, netns, message);
}

ControlSocket::ControlSocket(std::shared_ptr<Hub> hub, SocketFile listener)
    : hub_(std::move(hub)),
      listener_(std::move(listener)),
      place_(hub_->enter(kNobody, listener_.fd())) {}

ControlSocket::~ControlSocket() { hub_->leave(place_); }

std::expected<std::unique_ptr<ControlSocket>, std::string> ControlSocket::listen(
    EventLoop& loop, netlink::Server& server, const std::string& text) {
  // Anybody may ask; who may do what is the server's to decide.
  auto listener = SocketFile::listen_at(text, SOCK_SEQPACKET, 0666);
  if (!listener)
    return std::unexpected(
        listener.error().taken
            ? fmt::format("another pspd listens at {}: stop it, or choose another --socket", text)
            : listener.error().text);
  auto hub = Hub::of(loop, server);
  if (!hub->complete())
    return std::unexpected(fmt::format("cannot listen at {}: {}", text, std::strerror(errno)));
  std::unique_ptr<ControlSocket> control(new ControlSocket(std::move(hub), std::move(*listener)));
  if (const int error = control->watch(); error != 0)
    return std::unexpected(fmt::format("cannot listen at {}: {}", text, std::strerror(error)));
  return control;
}

// watch begins to accept. Returns an errno.
int ControlSocket::watch() {
  auto accept = hub_->loop().try_on_readable(listener_.fd(), [this] {
    hub_->turn(place_, [this] { accept_one(); });
    accept_.set_order(place_.stamp);
  });
  auto pause = hub_->loop().try_every(kAcceptPause, [this] { go_on(); });
  if (!accept || !pause) return accept ? pause.error() : accept.error();
  accept_ = std::move(*accept);
  accept_.set_order(place_.stamp);
  pause_ = std::move(*pause);
  pause_.enable(false);
  return 0;
}

// go_on accepts again after a pause, which is longer while there is no memory to watch with.
void ControlSocket::go_on() {
  if (!accept_.enable(true)) return;
  pause_.enable(false);
  if (held_) accept_one();
}

// accept_one pauses without a descriptor to accept with, and while a user has so many that hang in
// close() that not even refusing is safe.
void ControlSocket::accept_one() {
  UniqueFd fd = std::move(held_);
  if (!fd) fd = UniqueFd(::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (fd) {
    held_ = hub_->welcome(std::move(fd));
    if (!held_) return;
  } else if (errno != EMFILE && errno != ENFILE && errno != ENOMEM && errno != ENOBUFS) {
    return;
  }
  accept_.enable(false);
  pause_.enable(true);
}

}  // namespace psp
