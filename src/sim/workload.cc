// SPDX-License-Identifier: Apache-2.0
//
// What an application does next is drawn each time. In the calm at the end it finishes: it secures
// what it still can, says FIN, reads to the end, closes.
//
// Keys come to the other side as numbers, some time later; so both ends are secured at different
// times and in any order, or one alone. At the calm each connection is judged: if nothing stands in
// its way (can_live) it must deliver all, else complain() breaks the run. That is the promise that
// security does not cost what it protects.
#include "workload.hh"

#include <algorithm>
#include <fmt/format.h>

namespace psp::sim {
namespace {

constexpr std::uint16_t kPort = 4242;
constexpr std::size_t kMostAtOnce = 6;

}  // namespace

Workload::Workload(Schedule& schedule, Random random, const Plan& plan, Hosts hosts,
                   Observer& observer, Coverage& coverage)
    : schedule_(schedule),
      random_(random),
      plan_(plan),
      hosts_(std::move(hosts)),
      observer_(observer),
      coverage_(coverage) {
  for (unsigned place = 0; place < 4; ++place)
    kernel_of(place).listen(
        kPort, [this, place](const std::shared_ptr<Tcp>& socket) { accept(place, socket); });
}

void Workload::begin() {
  if (calm_) return;
  forget_finished();
  if (connections_.size() < kMostAtOnce) connect();
  schedule_.after(random_.below(120 * kMillisecond), [this] { begin(); });
}

void Workload::forget_finished() {
  std::erase_if(connections_, [](const Handle& connection) {
    return std::ranges::all_of(connection->sides,
                               [](const Side& side) { return !side.socket || side.closed; });
  });
}

bool Workload::has_place(unsigned place) const {
  return place < 2 || (plan_.has(Feature::k_containers) && !hosts_.machines[place % 2]->box_ends);
}

// choose_places: any namespace of a host connects to any of the other. A container that has the
// addresses of its host is on a link of its own.
std::pair<unsigned, unsigned> Workload::choose_places() {
  auto from = static_cast<unsigned>(random_.below(2));
  unsigned to = 1 - from;
  const bool from_box = random_.chance(400'000), to_box = random_.chance(400'000);
  if (from_box && has_place(from + 2)) from += 2;
  if (!kernel_of(from).options().boxed4) {
    if (from >= 2) to += 2;
  } else if (to_box && has_place(to + 2)) {
    to += 2;
  }
  if (!has_place(to)) to -= 2, from %= 2;
  return {from, to};
}

void Workload::connect() {
  const auto [place, peer] = choose_places();
  Kernel& kernel = kernel_of(place);
  auto connection = std::make_shared<Connection>();
  connection->number = ++number_;
  connection->acts = static_cast<unsigned>(random_.between(5, 120));
  connection->patient = random_.chance(600'000);
  connection->version = static_cast<Version>(random_.below(kVersions));
  Side& side = connection->sides[0];
  side.socket = kernel.open();
  side.end = std::make_shared<End>();
  side.end->host = place % 2;
  side.end->place = place;
  side.end->peer_place = peer;
  side.end->socket = side.socket;
  side.end->cookie = side.socket->id;
  side.socket->stream = side.end->stream = ++last_stream_;
  side.end->peer_stream = ++last_stream_;
  side.wants_key = !random_.chance(100'000);
  connection->sides[1].wants_key =
      side.wants_key && !(plan_.has(Feature::k_one_sided) && random_.chance(150'000));
  const unsigned family = plan_.has(Feature::k_six) && random_.chance(500'000) ? 6 : 4;
  const KernelOptions& ours = kernel.options();
  const KernelOptions& theirs = kernel_of(peer).options();
  Tuple tuple{.family = family,
              .local = family == 4 ? ours.address4 : ours.address6,
              .remote = family == 4 ? theirs.address4 : theirs.address6,
              .local_port = 0,
              .remote_port = kPort};
  if (plan_.has(Feature::k_same_ports) && random_.chance(700'000))
    tuple.local_port = static_cast<std::uint16_t>(30000 + random_.below(5));
  side.socket->tuple.family = family;
  const bool before = plan_.has(Feature::k_early) && side.wants_key && random_.chance(300'000);
  if (before) take_rx(side, connection->version);
  side.socket->reacts = true;
  plan_exchange(*connection);
  connections_.push_back(connection);
  kernel.connect(*side.socket, tuple);
  side.end->tuple = side.socket->tuple;
  observer_.begins(side.end);
  side.secures_at =
      schedule_.now() + random_.below(plan_.has(Feature::k_late) && random_.chance(500'000)
                                          ? 2 * kSecond
                                          : 5 * kMillisecond);
  schedule_act(connection, 0);
}

void Workload::accept(unsigned place, const std::shared_ptr<Tcp>& socket) {
  Handle found;
  for (const Handle& connection : connections_)
    if (connection->sides[0].end->peer_place == place &&
        connection->sides[0].socket->tuple == socket->tuple.turned() &&
        connection->sides[0].socket->iss + 1 == socket->rcv_nxt)
      found = connection;
  // Of a connection that is no more: nobody knows it, and it is closed at once.
  if (!found || found->accepted || !has_place(place)) {
    socket->abort();
    return;
  }
  found->accepted = true;
  Side& side = found->sides[1];
  side.socket = socket;
  side.end = std::make_shared<End>();
  side.end->host = place % 2;
  side.end->place = place;
  side.end->peer_place = found->sides[0].end->place;
  side.end->socket = socket;
  side.end->cookie = socket->id;
  side.end->tuple = socket->tuple;
  socket->stream = side.end->stream = found->sides[0].end->peer_stream;
  side.end->peer_stream = found->sides[0].end->stream;
  socket->written = side.end->written = found->sides[0].end->peer_written;
  side.end->peer_written = found->sides[0].end->written;
  side.secures_at =
      schedule_.now() + random_.below(plan_.has(Feature::k_late) && random_.chance(500'000)
                                          ? 2 * kSecond
                                          : 5 * kMillisecond);
  observer_.begins(side.end);
  schedule_act(found, 1);
}

void Workload::schedule_act(const Handle& connection, unsigned which) {
  const Time most = calm_                    ? 20 * kMillisecond
                    : random_.chance(30'000) ? 2 * kSecond
                                             : 15 * kMillisecond;
  schedule_.after(random_.below(most), [this, connection, which] {
    Side& side = connection->sides[which];
    if (side.closed) return;
    act(connection, which);
    if (!side.closed) schedule_act(connection, which);
  });
}

void Workload::act(const Handle& connection, unsigned which) {
  Side& side = connection->sides[which];
  Side& other = connection->sides[1 - which];
  if (connection->judged && !connection->can_live) return close(side, true);
  if (side.rests) return;
  if (side.socket->is_over() && side.socket->error != 0 && !random_.chance(200'000)) {
    if (!calm_ && plan_.has(Feature::k_disconnect) && random_.chance(100'000))
      return reconnect(connection, which);
    return close(side, false);
  }
  if (side.socket->state == PSP_TCP_SYN_SENT) return;
  if (!side.by_tls) secure(*connection, side, other);
  if (side.by_tls && !exchange(connection, which)) return;
  if (calm_ && !connection->judged) return read(side);
  if (calm_ || connection->acts == 0) return finish(side);
  if (which == 0) --connection->acts;
  deed(connection, which);
}

void Workload::deed(const Handle& connection, unsigned which) {
  Side& side = connection->sides[which];
  const std::uint64_t choice = random_.below(1000);
  if (choice < 500) {
    if (connection->patient && side.wants_key && !side.has_tx) return;
    return write(side);
  }
  if (choice < 960) return read(side);
  if (choice < 970 && plan_.has(Feature::k_half_close)) {
    coverage_.count("deeds", "half-close");
    return side.socket->shutdown();
  }
  if (choice < 975 && plan_.has(Feature::k_abort)) return close(side, true);
  if (choice < 980) return close(side, false);
  if (choice < 990 && plan_.has(Feature::k_disconnect)) return reconnect(connection, which);
}

// finish is how an application ends a connection that it wants nothing more of.
void Workload::finish(Side& side) {
  side.socket->shutdown();
  read(side);
  if (!side.socket->at_end() && !(side.socket->is_over() && side.socket->readable() == 0)) return;
  // Both have said all, and it has arrived.
  if (side.socket->is_over() || side.socket->snd_una == side.socket->write_seq) close(side, false);
}

void Workload::write(Side& side) {
  const std::uint64_t most = random_.chance(100'000)   ? 100'000
                             : random_.chance(500'000) ? 3000
                                                       : 30;
  side.written += side.socket->write(random_.between(1, most));
}

void Workload::read(Side& side) {
  const std::uint64_t most = random_.chance(700'000) ? 100'000 : random_.between(1, 3000);
  const std::uint32_t from = side.socket->copied_seq;
  const std::uint32_t irs = side.socket->irs;
  const Octets octets = side.socket->read(most);
  if (octets.empty()) return;
  side.read += octets.size();
  observer_.read(*side.end, from, irs, octets);
}

// secure does what of rx-assoc and tx-assoc is to be done, when the time has come.
void Workload::secure(Connection& connection, Side& side, Side& other) {
  if (!side.wants_key || schedule_.now() < side.secures_at || side.has_tx) return;
  if (!side.key) return take_rx(side, connection.version);
  if (!other.key || schedule_.now() < other.key->known_at) return;
  Key key = *other.key;
  if (!calm_ && plan_.has(Feature::k_wrong_key) && random_.chance(20'000)) {
    const Handle& any = connections_[random_.below(connections_.size())];
    for (const Side& some : any->sides)
      if (some.key && some.end && some.end->host != side.end->host &&
          some.key->version == side.key->version)
        key = *some.key;
    if (key.octets != other.key->octets) {
      connection.tampered = true;
      // ICMP errors that quote this SPI are taken for one of the two (docs/security.md).
      any->tampered |= plan_.has(Feature::k_mtu);
    }
  }
  take_tx(side, key);
}

void Workload::take_rx(Side& side, Version version) {
  Daemon* daemon = hosts_.daemon(side.end->host);
  if (daemon == nullptr || !daemon->serving()) return;
  const auto reply = daemon->rx_assoc(side.socket, daemon->identity().device, version);
  coverage_.count("rx-assoc", reply ? "ok" : fmt::format("errno {}", reply.error().sys_errno));
  if (!reply) return;
  const auto octets = reply->rx.key.span();
  side.key = Key{reply->rx.spi,
                 version,
                 {octets.begin(), octets.end()},
                 schedule_.now() + random_.below(10 * kMillisecond)};
  side.end->has_rx = true;
  side.end->rx_spi = reply->rx.spi.value;
  side.end->life = daemon->identity().life;
  side.end->rotation = daemon->identity().rotations;
}

void Workload::take_tx(Side& side, const Key& key) {
  Daemon* daemon = hosts_.daemon(side.end->host);
  if (daemon == nullptr || !daemon->serving()) return;
  const auto done =
      daemon->tx_assoc(side.socket, daemon->identity().device, key.version, key.spi, key.octets);
  coverage_.count("tx-assoc", done ? "ok" : fmt::format("errno {}", done.error().sys_errno));
  const psp_sock* state = daemon->state_of(*side.socket);
  if (!done && done.error().text == "Tx key already set" && state->state < PSP_STATE_TX)
    observer_.fail("tx-assoc says of a socket without Tx key that it has one");
  if (!done) doubt(side, done.error(), key.spi);
  if (!done && done.error().sys_errno == EINVAL) side.wants_key = false;
  if (!done) return;
  secured(side, key.spi);
}

// secured: from now on the observer expects all of a secured connection.
void Workload::secured(Side& side, Spi spi) {
  side.has_tx = true;
  side.end->tx_spi = spi.value;
  if (side.socket->is_over()) return;  // it is for a connection to come
  side.end->secured = true;
  side.end->left |= psp_has_sequence(side.socket->state);  // tx-assoc has noted it
  side.end->boundary = side.socket->write_seq;
  side.end->read_boundary = side.socket->copied_seq;
}

// doubt: nobody knows whether it has the Tx key now, or what it is good for.
void Workload::doubt(Side& side, const ClientError& error, Spi spi) {
  if (error.sys_errno != ECONNRESET && error.sys_errno != EIO) return;
  side.doubtful = true;
  side.end->tx_spi = spi.value;
}

// reconnect disconnects the socket and lets it connect once more, with the keys that it has: at
// once or after a time, in which pspds can come and go.
void Workload::reconnect(const Handle& connection, unsigned which) {
  Side& side = connection->sides[which];
  coverage_.count("deeds", "disconnect");
  connection->tampered = true;
  side.by_tls = false;
  const Tuple before = side.end->tuple;
  side.socket->disconnect();
  side.end->superseded = true;
  // One that was accepted has nobody to connect to.
  if (random_.chance(300'000) || before.remote_port != kPort) return close(side, false);
  side.rests = true;
  const Time most = random_.chance(500'000) ? kSecond : 10 * kSecond;
  const Time pause = random_.chance(400'000) ? 0 : random_.below(most);
  schedule_.after(pause,
                  [this, connection, which, before] { connect_again(*connection, which, before); });
}

void Workload::connect_again(Connection& connection, unsigned which, Tuple to) {
  Side& side = connection.sides[which];
  side.rests = false;
  if (side.closed) return;
  if (!random_.chance(500'000)) to.local_port = 0;
  auto end = std::make_shared<End>(*side.end);
  end->superseded = end->touched = end->left = end->heard = false;
  end->gone = 0;
  end->secured = side.has_tx && observer_.holds(*side.end);
  side.socket->stream = end->stream = ++last_stream_;
  end->peer_stream = ++last_stream_;
  side.socket->written = end->written = end->peer_written = nullptr;
  side.end = end;
  kernel_of(end->place).connect(*side.socket, to);
  end->tuple = side.socket->tuple;
  if (end->secured) end->boundary = side.socket->write_seq;
  connection.accepted = true;  // nobody is there for it
  observer_.begins(end);
}

void Workload::close(Side& side, bool hard) {
  if (side.closed || !side.socket) return;
  side.closed = true;
  coverage_.count("deeds", hard ? "abort" : "close");
  kernel_of(side.end->place).release(*side.socket);
  hard ? side.socket->abort() : side.socket->close();
}

std::vector<Link::Target> Workload::targets() const {
  std::vector<Link::Target> targets;
  for (const Handle& connection : connections_)
    for (const Side& side : connection->sides)
      if (side.socket && !side.socket->is_over())
        targets.push_back({side.end->host, side.end->place >= 2, side.socket->tuple.turned(),
                           side.socket->rcv_nxt, side.socket->snd_nxt,
                           side.socket->agreed.timestamps ? side.socket->recent : 0});
  return targets;
}

std::vector<std::shared_ptr<End>> Workload::ends(unsigned host) const {
  std::vector<std::shared_ptr<End>> ends;
  for (const Handle& connection : connections_)
    for (const Side& side : connection->sides)
      if (side.end && side.end->host == host) ends.push_back(side.end);
  return ends;
}

void Workload::end_in(unsigned place) {
  for (const Handle& connection : connections_)
    for (Side& side : connection->sides)
      if (side.end && side.end->place == place) {
        connection->tampered = true;
        close(side, false);
      }
}

// can_live: is there nothing that would keep the two from telling each other all?
bool Workload::can_live(const Connection& connection) const {
  unsigned secured = 0;
  for (unsigned i = 0; i < 2; ++i) {
    const Side& side = connection.sides[i];
    const Side& other = connection.sides[1 - i];
    if (!side.socket || side.closed || side.socket->is_over() || side.end->touched || side.doubtful)
      return false;
    const Daemon* daemon = hosts_.daemon(side.end->host);
    const psp_sock* state = daemon == nullptr ? nullptr : daemon->state_of(*side.socket);
    if (daemon == nullptr) return false;
    if (state == nullptr || state->state == PSP_STATE_NONE) continue;
    if (state->state == PSP_STATE_RX && state->epoch != daemon->identity().epoch) continue;
    if (state->epoch != daemon->identity().epoch || state->rx.dev_id != daemon->identity().device)
      return false;
    if (daemon->attachment(side.end->place >= 2) == nullptr) return false;
    if (daemon->identity().rotations - side.end->rotation > 1) return false;
    if (state->state < PSP_STATE_TX) continue;
    ++secured;
    // In clear, and the peer takes nothing in clear any more: applications have to see to that.
    if (psp_before(side.socket->snd_una, side.end->boundary)) return false;
    if (!other.key || state->tx_spi != other.key->spi.value) return false;
  }
  // One end alone is that for good, but in an exchange.
  const bool one_end = secured == 1 && !connection.sides[0].by_tls;
  return !one_end && connection.accepted && !connection.tampered;
}

void Workload::judge() {
  for (const Handle& connection : connections_) {
    connection->judged = true;
    connection->can_live = can_live(*connection);
    coverage_.count("at the calm", connection->can_live ? "can live" : "cannot");
  }
}

void Workload::complain() {
  for (const Handle& connection : connections_) {
    if (!connection->can_live) continue;
    for (unsigned i = 0; i < 2; ++i) {
      const Side& side = connection->sides[i];
      if (side.read != connection->sides[1 - i].written || !side.closed)
        return observer_.fail(fmt::format(
            "connection {} has nothing in its way, and host {} has read {} of {} octets{}",
            connection->number, side.end->host, side.read, connection->sides[1 - i].written,
            side.closed ? "" : ", and is not at the end"));
    }
  }
}

void Workload::abort_all() {
  for (const Handle& connection : connections_)
    for (Side& side : connection->sides) close(side, true);
}

}  // namespace psp::sim
