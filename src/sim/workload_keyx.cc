// SPDX-License-Identifier: Apache-2.0
//
// Connections that libpsp-tls secures. The application does what its documentation asks for: it
// calls step() when there may be something to do, closes where that fails, has a time-out of its
// own, and else goes on: under PSP, or inside TLS, where it has nothing more to say.
//
// What an end that is done may rely on is looked at from the other one: its keys are that one's,
// its peer is under PSP as well, nothing in clear has come between. That the octets are the peer's
// own, those of TLS among them, is seen at each read.
#include <algorithm>
#include <array>
#include <cerrno>
#include <fmt/format.h>
#include <string_view>

#include "workload.hh"

namespace psp::sim {
namespace {

constexpr std::uint32_t kShare = 180'000;  // of the connections, in a million
constexpr Time kRetry = std::chrono::nanoseconds(keyx::kRetryDelay).count();

std::string_view name(keyx::ErrorCode code) {
  static constexpr std::array<std::string_view, 11> kNames = {
      "io",       "peer closed", "protocol",     "authentication", "no psp", "rx-assoc",
      "tx-assoc", "clear data",  "peer refused", "usage",          "timeout"};
  return kNames.at(static_cast<std::size_t>(code));
}

}  // namespace

// plan_exchange: all is drawn, whether the kind is on or not.
void Workload::plan_exchange(Connection& connection) {
  const bool chosen = random_.chance(kShare);
  for (Side& side : connection.sides) {
    const bool encrypts = random_.chance(600'000);
    const auto any = static_cast<std::uint32_t>(random_.between(1, 15));
    side.policy.versions = {encrypts ? 0b0011u : any};
    side.policy.allow_tls = random_.chance(500'000);
    const bool says_something = random_.chance(300'000);
    const std::uint64_t size = random_.below(3000);
    side.early = says_something ? size : 0;
  }
  const auto wants = [](const Side& side) { return side.wants_key && !side.key; };
  if (!chosen || !plan_.has(Feature::k_keyx) || !wants(connection.sides[0]) ||
      !wants(connection.sides[1]))
    return;
  for (Side& side : connection.sides) side.by_tls = true;
  Side& side = connection.sides[0];
  side.socket->written = side.end->written = std::make_shared<Written>();
  side.end->peer_written = std::make_shared<Written>();
}

void Workload::begin_exchange(Connection& connection, unsigned which) {
  Side& side = connection.sides[which];
  side.tls_until = schedule_.now() + random_.between(kSecond, 20 * kSecond);
  auto socket = std::make_unique<AppSocket>(hosts_.machines[side.end->host]->kernel, side.socket,
                                            random_.fork());
  socket->on_sent = [&side](std::size_t size) { side.written += size; };
  socket->on_read = [this, &side](std::uint32_t seq, const Octets& octets) {
    side.read += octets.size();
    observer_.read(*side.end, seq, side.socket->irs, octets);
  };
  const auto available = [this, &side]() -> keyx::Availability {
    const Daemon* daemon = hosts_.daemon(side.end->host);
    if (daemon == nullptr || !daemon->serving())
      return {.absence = keyx::Absence::kNoProvider, .reason = "pspd does not run"};
    if (daemon->versions().bits == 0) return {.absence = keyx::Absence::kDisabled};
    return {.versions = daemon->versions()};
  };
  constexpr std::uint64_t kInsideTls = std::uint64_t{1} << 63;  // streams of their own
  side.tls = std::make_unique<TlsEnd>(
      std::move(socket), which == 1, side.policy,
      TlsEnd::Early{side.end->stream | kInsideTls, side.end->peer_stream | kInsideTls, side.early},
      Requests{available, [this, &side](Version version) { return exchange_rx(side, version); },
               [this, &side](Version version, const KeyInfo& tx) {
                 return exchange_tx(side, version, tx);
               }});
}

// exchange goes on with it. True: the application goes on under PSP.
bool Workload::exchange(const Handle& connection, unsigned which) {
  Side& side = connection->sides[which];
  if (schedule_.now() < std::max(side.secures_at, side.tls_next)) return false;
  if (!side.tls) begin_exchange(*connection, which);
  if (!side.tls->over()) {
    const bool loses_interest = random_.chance(3'000);
    if (loses_interest && !calm_) {
      close(side, plan_.has(Feature::k_abort) && random_.chance(500'000));
      return false;
    }
    if (side.tls->step() == keyx::Step::kWantRetry) side.tls_next = schedule_.now() + kRetry;
    if (side.tls->over()) end_exchange(*connection, which);
  }
  if (side.closed) return false;
  if (!side.tls->over()) {
    if (calm_ || schedule_.now() < side.tls_until) return false;
    coverage_.count("keyx", "failed, timeout");
    close(side, false);
    return false;
  }
  if (side.tls->outcome().kind == keyx::Outcome::Kind::kPsp) return true;
  finish(side);
  return false;
}

void Workload::end_exchange(Connection& connection, unsigned which) {
  Side& side = connection.sides[which];
  if (side.tls->done()) return check_exchange(connection, which);
  const keyx::Error& error = side.tls->error();
  coverage_.count("keyx", fmt::format("failed, {}", name(error.code)));
  if (error.code == keyx::ErrorCode::kUsage)
    observer_.fail(fmt::format("the key exchange was used wrongly: {}", error.message));
  close(side, false);
}

void Workload::check_exchange(const Connection& connection, unsigned which) {
  const Side& side = connection.sides[which];
  const Side& other = connection.sides[1 - which];
  const bool psp = side.tls->outcome().kind == keyx::Outcome::Kind::kPsp;
  coverage_.count("keyx", psp ? "done" : "on TLS");
  const auto wrong = [&](std::string_view what) {
    observer_.fail(fmt::format("host {}: the key exchange of connection {} is done, but {}",
                               side.end->host, connection.number, what));
  };
  if (!other.tls) return wrong("nobody was there");
  if (side.tls->early_wrong()) return wrong("octets inside TLS are not the peer's");
  if (psp) return check_secured(connection, which);
  if (!side.policy.allow_tls || !other.policy.allow_tls) wrong("TLS was not allowed");
  if (side.has_tx || other.has_tx) wrong("one end is on TLS, the other under PSP");
}

void Workload::check_secured(const Connection& connection, unsigned which) {
  const Side& side = connection.sides[which];
  const Side& other = connection.sides[1 - which];
  const keyx::Outcome& outcome = side.tls->outcome();
  const auto wrong = [&](std::string_view what) {
    observer_.fail(fmt::format("host {}: the key exchange of connection {} is done, but {}",
                               side.end->host, connection.number, what));
  };
  if (!side.has_tx || !other.has_tx || !side.key || !other.key || !outcome.proven)
    return wrong("not both ends are under PSP");
  if (outcome.rx_spi != side.key->spi || outcome.tx_spi != other.key->spi ||
      side.end->tx_spi != other.key->spi.value || other.end->tx_spi != side.key->spi.value)
    return wrong("the keys are not those of each other");
  if (outcome.version != side.key->version || outcome.version != other.key->version ||
      !side.policy.versions.has(outcome.version) || !other.policy.versions.has(outcome.version))
    return wrong("the version is not one that both allow");
  if (side.tls->early_read() != other.tls->early_size())
    return wrong(fmt::format("{} of {} octets inside TLS have come", side.tls->early_read(),
                             other.tls->early_size()));
  if (side.socket->copied_seq - side.socket->irs - 1 != other.first_place)
    wrong("what is read next is not the peer's first octet");
}

ClientResult<RxAssocInfo> Workload::exchange_rx(Side& side, Version version) {
  Daemon* daemon = hosts_.daemon(side.end->host);
  if (daemon == nullptr || !daemon->serving()) return client_error(ENOTCONN, "pspd does not run");
  auto reply = daemon->rx_assoc(side.socket, daemon->identity().device, version);
  coverage_.count("rx-assoc", reply ? "ok" : fmt::format("errno {}", reply.error().sys_errno));
  if (!reply) return reply;
  const auto octets = reply->rx.key.span();
  side.key = Key{reply->rx.spi, version, {octets.begin(), octets.end()}, schedule_.now()};
  side.end->has_rx = true;
  side.end->rx_spi = reply->rx.spi.value;
  side.end->life = daemon->identity().life;
  side.end->rotation = daemon->identity().rotations;
  return reply;
}

ClientResult<void> Workload::exchange_tx(Side& side, Version version, const KeyInfo& tx) {
  Daemon* daemon = hosts_.daemon(side.end->host);
  if (daemon == nullptr || !daemon->serving()) return client_error(ENOTCONN, "pspd does not run");
  const auto done =
      daemon->tx_assoc(side.socket, daemon->identity().device, version, tx.spi, tx.key.span());
  coverage_.count("tx-assoc", done ? "ok" : fmt::format("errno {}", done.error().sys_errno));
  if (!done) {
    doubt(side, done.error(), tx.spi);
    return done;
  }
  secured(side, tx.spi);
  side.first_place = side.end->boundary - side.socket->iss - 1 + keyx::kStartSize;
  return {};
}

}  // namespace psp::sim
