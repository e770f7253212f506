// SPDX-License-Identifier: Apache-2.0
//
// A client's way: welcome, then for each datagram serve, which begins the answer; work sends and
// makes answers in portions for as long as the client takes them; what it does not take waits, and
// tick tries again. drop is the end, from wherever it comes. Each step is a turn.
#include "clients.hh"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <linux/sockios.h>
#include <new>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <utility>

#include "base/socket_options.hh"
#include "netlink/credentials.hh"

#include "envelope.hh"
#include "receive.hh"

namespace psp::control {
namespace {

using namespace std::chrono_literals;

constexpr auto kRetry = 5ms;
constexpr auto kRetryMax = 320ms;
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

// can_ask_later: the kernel tells us even later which process it was that connected.
bool can_ask_later(int fd) {
  static const bool can = [fd] {
    const auto pidfd = get_option<int>(fd, SOL_SOCKET, SO_PEERPIDFD);
    const UniqueFd owned(pidfd.value_or(-1));
    return pidfd || errno != ENOPROTOOPT;
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

std::uint64_t this_netns() {
  const UniqueFd probe(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  return netns_cookie(probe.get());
}

}  // namespace

Clients::Clients(Loop& loop, netlink::Server& server)
    : loop_(loop),
      server_(server),
      home_netns_(this_netns()),
      error_(home_netns_ == 0 ? errno : 0),
      forwarder_(loop, server, home_netns_),
      tick_(loop.every(kRetry, [this] { tick(); })) {
  raise_limit();
  tick_.enable(false);
  server_.set_multicast(
      [this](std::uint32_t group_bit, std::uint64_t netns, const netlink::Datagram& message) {
        multicast(group_bit, netns, message);
      });
}

// account_of: root of another namespace is a user like all others, one for each namespace: beyond
// the numbers that users have.
uid_t Clients::account_of(uid_t uid, std::uint64_t netns) const {
  constexpr uid_t kElsewhere = 0xf000'0000;
  return uid == 0 && netns != home_netns_ ? kElsewhere | static_cast<uid_t>(netns & ~kElsewhere)
                                          : uid;
}

UniqueFd Clients::welcome(UniqueFd fd) {
  reap();
  const ucred peer =
      get_option<ucred>(fd.get(), SOL_SOCKET, SO_PEERCRED).value_or(ucred{0, ~0u, ~0u});
  // An accepted socket belongs to the namespace of the socket that connected.
  const std::uint64_t netns = netns_cookie(fd.get());
  const uid_t uid = account_of(peer.uid, netns);
  const auto admission = accounts_.admission(uid);
  if (admission == Accounts::Admission::kLater) return fd;
  if (admission == Accounts::Admission::kFull ||
      !set_option(fd.get(), SOL_SOCKET, SO_PASSCRED, 1) ||
      !set_option(fd.get(), SOL_SOCKET, SO_SNDBUF, kSendBuffer)) {
    // Without these options nobody would know who asks, or what that costs.
    accounts_.connection_closer(uid).take_later(std::move(fd));
    return {};
  }
  // What takes memory comes first: nothing is to be undone where there is none.
  if (waiting_.capacity() <= clients_.size()) waiting_.reserve(2 * clients_.size() + 1);
  std::list<ClientState> fresh(1);
  ClientState& client = fresh.back();
  client.turn = turns_.enter(uid, peer.pid);
  client.turn.on_stamp = [&client](FairShare::Stamp stamp) { client.readable.set_order(stamp); };
  client.self = fresh.begin();
  client.fd = std::move(fd);
  client.send_buffer =
      static_cast<std::size_t>(get_option<int>(client.fd.get(), SOL_SOCKET, SO_SNDBUF).value_or(0));
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
    turns_.leave(client.turn);
    accounts_.connection_closer(uid).take_later(std::move(client.fd));
    return {};
  }
  clients_.splice(clients_.end(), fresh);
  accounts_.enter(uid);
  return {};
}

// take_turn: a client for whom memory runs out is dropped, and costs nobody else anything.
void Clients::take_turn(ClientState& client, Step step) {
  turns_.take(client.turn, [&] {
    try {
      (this->*step)(client);
    } catch (const std::bad_alloc&) {
      if (client.fd) drop(client);
    }
  });
}

// listen_to: false if the kernel has no memory to watch the client with.
bool Clients::listen_to(ClientState& client) {
  auto readable = loop_.try_on_readable(client.fd.get(), [this, &client] {
    if (turns_.is_next(client.turn)) take_turn(client, &Clients::serve);
  });
  if (!readable) return false;
  client.readable = std::move(*readable);
  client.readable.set_order(client.turn.stamp);
  return true;
}

// drop ends a connection; `empty`: nothing can be left in it. Called from the client's own turn, so
// it is in no queue: what runs is kept until the next connection comes. Takes no memory that it
// needs.
void Clients::drop(ClientState& client, bool empty) {
  client.readable = {};
  std::erase(waiting_, &client);
  for (netlink::Datagram& answer : client.answers) netlink::wipe(answer);
  client.answers.clear();
  if (!client.request.empty()) netlink::wipe(client.request);
  client.request.clear();
  client.caller.dump.reset();
  accounts_.leave(client.uid);
  (void)accounts_.hold(client.uid, std::exchange(client.held, 0), 0);
  Closer& closer = accounts_.closer(client.uid);
  for (UniqueFd& fd : client.fds) closer.take(std::move(fd));
  client.fds.clear();
  if (empty)
    client.fd.reset();
  else
    accounts_.connection_closer(client.uid).take_later(std::move(client.fd));
  gone_.splice(gone_.end(), clients_, client.self);
}

void Clients::reap() {
  for (const ClientState& client : gone_) turns_.leave(client.turn);
  gone_.clear();
  accounts_.sweep();
}

void Clients::serve(ClientState& client) {
  Received received = receive(client.fd.get(), {request_.get(), kRequestMax});
  if (received.kind == Received::Kind::kNothing) return;
  const bool whole = received.kind == Received::Kind::kDatagram;
  if (whole && is_envelope(received.octets)) {
    const auto envelope = read_envelope(received.octets);
    const auto may = [&](std::span<const std::uint8_t> messages) {
      return judge(client, messages);
    };
    client.answers.push_back(envelope ? forwarder_.open(*envelope, received.fds, client.uid, may)
                                      : envelope_failed({}, EINVAL));
  } else if (whole) {
    client.request.assign(received.octets.begin(), received.octets.end());
    client.fds = std::exchange(received.fds, {});
    answer_portion(client);
  }
  // Closed before the caller hears: it may close its own and expect a FIN.
  Closer& closer = accounts_.closer(client.uid);
  for (UniqueFd& fd : received.fds) closer.take(std::move(fd));
  if (!received.octets.empty()) netlink::wipe(received.octets);
  if (!whole || !accounts_.may_go_on(client.uid))
    return drop(client, received.kind == Received::Kind::kEnd);
  work(client);
}

// work sends what there is to send and makes more of it, for as long as the client takes it. Then,
// until all is sent, the client is not heard.
void Clients::work(ClientState& client) {
  const std::size_t before = client.sent;
  for (int portions = 0;; portions++) {
    if (!flush(client)) return drop(client);
    if (!client.answers.empty() || portions == kPortionsAtOnce || turns_.over() || !produce(client))
      break;
  }
  if (!hold(client)) return drop(client);
  if (client.idle()) {
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
void Clients::wait(ClientState& client) {
  client.due = loop_.now() + client.pause;
  if (std::exchange(client.waiting, true)) return;
  client.readable.enable(false);
  turns_.withdraw(client.turn);
  waiting_.push_back(&client);
  if (waiting_.size() == 1) tick_.enable(true);
}

// produce makes the next answers: a dump goes on while it is read, then come further messages.
bool Clients::produce(ClientState& client) {
  if (client.idle()) return false;
  std::vector<netlink::Datagram> parts;
  if (server_.resume(client.caller, parts)) {
    for (netlink::Datagram& part : parts) client.answers.push_back(std::move(part));
  } else {
    answer_portion(client);
  }
  return true;
}

// hold counts what waits for the client. False: this user, or all of them, would hold too much.
bool Clients::hold(ClientState& client) {
  std::size_t octets = client.request.size();
  for (const netlink::Datagram& answer : client.answers) octets += answer.size() + kOverhead;
  return accounts_.hold(client.uid, std::exchange(client.held, octets), octets);
}

// judge finds out whether the caller may do what only CAP_NET_ADMIN may, each time that it asks.
bool Clients::judge(ClientState& client, std::span<const std::uint8_t> messages) {
  if (!client.judged)
    client.caller.net_admin =
        needs_net_admin(messages) && netlink::peer_has_net_admin(client.fd.get());
  return client.caller.net_admin;
}

// answer_portion answers the next messages of the client's request.
void Clients::answer_portion(ClientState& client) {
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
    if (turns_.over()) break;
  }
  if (!client.request.empty()) return;
  for (UniqueFd& fd : client.fds) accounts_.closer(client.uid).take(std::move(fd));
  client.fds.clear();
}

bool Clients::flush(ClientState& client) {
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
void Clients::tick() {
  const auto now = loop_.now();
  std::vector<ClientState*> due;
  std::ranges::copy_if(waiting_, std::back_inserter(due),
                       [now](const ClientState* client) { return client->due <= now; });
  std::ranges::sort(due, {}, [](const ClientState* client) { return client->turn.stamp; });
  for (ClientState* client : due) {
    take_turn(*client, &Clients::work);
    if (loop_.now() >= now + Turns::kLength) break;
  }
  if (waiting_.empty()) tick_.enable(false);
}

// notify sends a notification unless the client does not read; then it is lost, and so are those
// that follow, until all before them is read: a client that has read the sign has missed nothing
// since.
bool Clients::notify(ClientState& client, const netlink::Datagram& message) {
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
void Clients::lose(ClientState& client) {
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

void Clients::multicast(std::uint32_t group_bit, std::uint64_t netns,
                        const netlink::Datagram& message) {
  for (ClientState& client : clients_)
    if (client.fd && client.caller.netns == netns && client.caller.groups & group_bit &&
        (message.empty() || !notify(client, message)))
      lose(client);
  forwarder_.multicast(group_bit, netns, message);
}

}  // namespace psp::control
