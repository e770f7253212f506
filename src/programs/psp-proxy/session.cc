// SPDX-License-Identifier: Apache-2.0
//
// A session is in one stage at a time: silent, connecting, handshake, upgrade, relay, parting. What
// becomes ready is served as the stage has it; tick ends what has waited too long.
//
// Until the upgrade is done the other end is a stranger, who must cost little: no TLS before he has
// said something, no connection to the program before the upgrade is done, no line in the log but a
// few. close_both ends it from every stage, and moves the session to the worker's list of those
// that are over: events that have been fetched may still name it.
#include "session.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <openssl/x509v3.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>

#include "base/counted.hh"
#include "base/socket_options.hh"

#include "proxy_worker.hh"
#include "socket.hh"
#include "splice_relay.hh"
#include "tls_relay.hh"

namespace psp::proxy {
namespace {

using keyx::Step;

// How long a peer that is refused may take to read why.
constexpr std::chrono::seconds kPartingTime{1};
constexpr std::uint32_t kRelayEvents = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;

double seconds_since(Clock::time_point then) {
  return std::chrono::duration<double>(Clock::now() - then).count();
}

// subject is what a certificate says of its owner, printable.
std::string subject(X509* certificate) {
  char text[256];
  X509_NAME_oneline(X509_get_subject_name(certificate), text, sizeof text);
  return text;
}

}  // namespace

Session::Session(ProxyWorker& worker, UniqueFd accepted, const SocketAddress& from,
                 std::unique_ptr<HalfOpen::Slot> slot)
    : worker_(worker),
      serve_(worker.shared_.options.serve),
      from_(from.text()),
      started_(worker.now_),
      deadline_(worker.now_ + worker.shared_.options.timeout),
      slot_(std::move(slot)),
      counted_(slot_ == nullptr) {
  (serve_ ? peer_ : clear_).fd = std::move(accepted);
  if (counted_) worker_.shared_.active.fetch_add(1, std::memory_order_relaxed);
}

Session::~Session() {
  upgrade_.reset();  // it uses the SSL
  worker_.counters_.over.add();
  if (counted_) worker_.shared_.active.fetch_sub(1, std::memory_order_relaxed);
}

void Session::Side::ready(std::uint32_t events) {
  ProxyWorker::attempt(session, [&] { session.on_ready(*this, events); });
}

void Session::begin() {
  addresses_ = worker_.shared_.target.addresses();
  if (serve_) {
    hear();
  } else {
    if (!watch(clear_, EPOLLET)) return;
    connect_next();
  }
}

void Session::on_ready(Side& side, std::uint32_t events) {
  if (stage_ == Stage::kRelay) {
    side.readable |= (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    side.writable |= (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0;
    turn();
  } else if (stage_ == Stage::kParting) {
    read_away();
  } else if (stage_ != Stage::kOver && &side == &onward() && stage_ == Stage::kConnecting) {
    connected();
  } else if (&side == &peer_ && stage_ != Stage::kOver) {
    resume();
  } else if (&side == &clear_ && stage_ != Stage::kOver) {
    refuse(Refusal::kGone, "the program has gone away");
  }
}

// hear waits for the first octet: a stranger who never speaks costs a socket, and no TLS.
void Session::hear() {
  stage_ = Stage::kSilent;
  char octet = 0;
  const ssize_t n = recv(peer_.fd.get(), &octet, 1, MSG_PEEK | MSG_DONTWAIT);
  if (n < 0 && errno == EAGAIN) return wait_for(peer_, EPOLLIN);
  if (n > 0) slot_->spoke();
  if (slot_->dropped()) return refuse(Refusal::kHalfOpen, "others need its place");
  start_tls();
}

// let_in makes one of the half open one of those that --max-connections counts.
bool Session::let_in() {
  std::atomic<unsigned>& active = worker_.shared_.active;
  const unsigned most = worker_.shared_.options.max_connections;
  if (active.fetch_add(1, std::memory_order_relaxed) >= most) {
    active.fetch_sub(1, std::memory_order_relaxed);
    refuse(Refusal::kLimit, counted(most, "connection is", "connections are") + " there already");
    return false;
  }
  counted_ = true;
  slot_.reset();
  return true;
}

void Session::resume() {
  if (stage_ == Stage::kSilent) return hear();
  if (stage_ == Stage::kHandshake) return step_handshake();
  if (stage_ == Stage::kUpgrade) return step_upgrade();
  if (stage_ == Stage::kRelay) return turn();
}

void Session::tick(Clock::time_point now) {
  if (stage_ == Stage::kParting && now >= deadline_) return close_both(false);
  if (stage_ < Stage::kRelay && now >= deadline_) return refuse(Refusal::kTimeout, time_is_up());
  check_key();
  const auto patience = worker_.shared_.options.retire_idle;
  if (stage_ == Stage::kRelay && ages_ && patience.count() > 0 && now - moved_at_ >= patience &&
      relay_->empty())
    end(Ending::kRetired, "idle since before the device key rotated");
}

std::string Session::time_is_up() const {
  const Shared& shared = worker_.shared_;
  const double seconds = static_cast<double>(shared.options.timeout.count()) / 1000;
  if (stage_ == Stage::kConnecting)
    return fmt::format("gave up after {} s without an answer from {}:{}", seconds,
                       shared.target.name().host, shared.target.name().port);
  const char* missing =
      stage_ == Stage::kUpgrade ? upgrade_->waiting_for() : "the peer's part of the TLS handshake";
  return fmt::format(
      "gave up after {} s without {}; is psp-proxy at the other end, and does UDP port 1000 pass?",
      seconds, missing);
}

void Session::check_key() {
  if (stage_ != Stage::kRelay || !psp_) return;
  const keyx::Freshness freshness = ticket_.state();
  ages_ = freshness != keyx::Freshness::kFresh;
  if (freshness == keyx::Freshness::kStale)
    end(Ending::kStale,
        "the device key of this host has rotated twice since it was made, or its device has gone; "
        "the program must connect again");
}

void Session::key_gone() {
  if (stage_ == Stage::kRelay && psp_)
    end(Ending::kStale, "pspd of this host has ended, and its device key with it");
}

void Session::stop() {
  if (stage_ == Stage::kRelay) return end(Ending::kStopped, "the proxy stops");
  if (stage_ != Stage::kOver) close_both(true);
}

// --- connecting ---

void Session::connect_next() {
  stage_ = Stage::kConnecting;
  Side& side = onward();
  while (next_address_ < addresses_->size()) {
    const SocketAddress& to = (*addresses_)[next_address_++];
    auto fd = begin_connect(to);
    if (fd) {
      side.fd = std::move(*fd);
      side.watched = false;
      return wait_for(side, EPOLLOUT);
    }
    tried_ += fmt::format("; {}: {}", to.text(), std::strerror(fd.error()));
  }
  const HostPort& name = worker_.shared_.target.name();
  refuse(Refusal::kUnreachable,
         fmt::format("cannot connect to {}:{}{}", name.host, name.port, tried_));
}

void Session::connected() {
  Side& side = onward();
  if (const int error = pending_error(side.fd.get()); error != 0) {
    tried_ +=
        fmt::format("; {}: {}", (*addresses_)[next_address_ - 1].text(), std::strerror(error));
    side.fd.reset();
    return connect_next();
  }
  return serve_ ? start_relay() : start_tls();
}

// --- TLS ---

void Session::start_tls() {
  stage_ = Stage::kHandshake;
  context_ = worker_.shared_.credentials.context();
  const auto& names = worker_.shared_.options.peer_names;
  auto made = keyx::make_connection(*context_, peer_.fd.get(),
                                    serve_ || names.empty() ? std::string() : names.front());
  if (!made) return refuse(Refusal::kProtocol, made.error().message);
  ssl_ = std::move(*made);
  step_handshake();
}

void Session::step_handshake() {
  const auto step = keyx::handshake(*context_, ssl_.get());
  if (!step) return refuse(to_refusal(step.error().code), step.error().message);
  if (*step != Step::kDone) return wait_for(*step);
  if (peer_allowed()) start_upgrade();
}

bool Session::peer_allowed() {
  X509* const certificate = SSL_get0_peer_certificate(ssl_.get());
  const auto& names = worker_.shared_.options.peer_names;
  if (!serve_) {
    peer_name_ = names.front();
    return true;  // OpenSSL has looked at the name
  }
  if (certificate != nullptr && keyx::peer_authenticated(*context_, ssl_.get()))
    peer_name_ = subject(certificate);
  if (names.empty()) return true;
  const auto named = std::ranges::find_if(names, [&](const std::string& name) {
    return certificate != nullptr && keyx::certificate_names(certificate, name);
  });
  if (named == names.end()) {
    refuse(Refusal::kPeerName,
           fmt::format("its certificate is good, but for {}, whom no --peer-name lets in",
                       peer_name_));
    return false;
  }
  peer_name_ = *named;
  return true;
}

// --- from TLS to PSP ---

static_assert(SpliceRelay::kPrimeMax <= TlsRelay::kRoom, "either relay takes what came early");

void Session::start_upgrade() {
  stage_ = Stage::kUpgrade;
  const Options& options = worker_.shared_.options;
  ops_ = worker_.ops();
  ticket_ = worker_.psp_.begin();
  upgrade_ = keyx::make_upgrade(ssl_.get(), *ops_,
                                {.versions = options.versions,
                                 .allow_tls = options.allow_tls,
                                 .protocol = keyx::Protocol::kSoftpsp,
                                 .early_max = SpliceRelay::kPrimeMax});
  step_upgrade();
}

void Session::step_upgrade() {
  switch (const Step step = upgrade_->step()) {
    case Step::kDone:
      return upgraded();
    case Step::kFailed:
      return refuse(to_refusal(upgrade_->error().code), upgrade_->error().message);
    case Step::kWantRetry:
      return worker_.run_later(*this);
    case Step::kWantDrain:
      return refuse(Refusal::kProtocol,
                    "the peer sends data without the PSP exchange; is it psp-proxy?");
    case Step::kWantRead:
    case Step::kWantWrite:
      return wait_for(step);
  }
}

void Session::upgraded() {
  const keyx::Outcome& outcome = upgrade_->outcome();
  psp_ = outcome.kind == keyx::Outcome::Kind::kPsp;
  if (psp_) {
    worker_.counters_.upgraded.add();
    protection_ = fmt::format("psp {}", psp::name(outcome.version));
    if (!encrypts(outcome.version))
      spdlog::warn("{}: {} does NOT encrypt: others can read the data", who(), protection_);
    ticket_.bind(outcome.dev_id);
    ages_ = ticket_.state() != keyx::Freshness::kFresh;
  } else {
    worker_.counters_.tls.add();
    protection_ = "tls";
    spdlog::warn("{}: stays on TLS: {}", who(), outcome.why_tls);
  }
  early_.resize(upgrade_->pending());
  upgrade_->read(early_);
  upgrade_.reset();
  if (serve_ && !let_in()) return;
  ops_.reset();
  context_.reset();
  if (psp_) ssl_.reset();  // with all keys of TLS
  return serve_ ? connect_next() : start_relay();
}

// --- carrying data ---

void Session::start_relay() {
  stage_ = Stage::kRelay;
  addresses_.reset();
  moved_at_ = worker_.now_;
  if (psp_) {
    auto relay = std::make_unique<SpliceRelay>(clear_, peer_, worker_.pipes_);
    if (!relay->prime(early_))
      return end(Ending::kReset, fmt::format("no pipe: {}", std::strerror(errno)));
    relay_ = std::move(relay);
  } else {
    relay_ = std::make_unique<TlsRelay>(clear_, peer_, std::move(ssl_), early_);
  }
  early_ = crypto::WipedVector();
  for (Side* side : {&clear_, &peer_})
    if (!watch(*side, kRelayEvents)) return;
  spdlog::debug("{}: {}", who(), protection_);
  // OpenSSL may hold octets of which the socket knows nothing any more.
  turn();
}

void Session::count_moved() {
  const std::uint64_t to = relay_->to_peer(), from = relay_->from_peer();
  if (to != counted_to_peer_ || from != counted_from_peer_) moved_at_ = worker_.now_;
  worker_.counters_.octets_to_peer.add(to - std::exchange(counted_to_peer_, to));
  worker_.counters_.octets_from_peer.add(from - std::exchange(counted_from_peer_, from));
}

void Session::turn() {
  const Relay::State state = relay_->turn();
  count_moved();
  switch (state) {
    case Relay::State::kWaiting:
      return;
    case Relay::State::kMore:
      return worker_.run_again(*this);
    case Relay::State::kDone:
      return end(Ending::kComplete, "both sides have ended");
    case Relay::State::kBroken: {
      const auto& broken = relay_->broken();
      return end(Ending::kReset, fmt::format("{}: {}", broken.by_peer ? "the peer" : "the program",
                                             broken.error == 0 ? "ended TLS without saying so"
                                                               : std::strerror(broken.error)));
    }
  }
}

// --- ends ---

void Session::refuse(Refusal reason, const std::string& why) {
  // Whatever the end of its socket looked like.
  if (slot_ != nullptr && slot_->dropped()) reason = Refusal::kHalfOpen;
  log_refusal(reason, why);
  worker_.counters_.refused[static_cast<std::size_t>(reason)].add();
  const bool told = ssl_ != nullptr && reason != Refusal::kTimeout && reason != Refusal::kGone;
  if (!told) return close_both(true);
  drop(clear_, true);
  part();
}

// log_refusal writes a line each for peers that were let in once and for programs of this host, and
// for strangers not more than HalfOpen grants.
void Session::log_refusal(Refusal reason, const std::string& why) const {
  const bool stranger = slot_ != nullptr;
  if (stranger && (reason == Refusal::kHalfOpen || !worker_.shared_.half_open.may_log())) return;
  spdlog::warn("{}: refused ({}): {}", who(), name(reason), why);
}

// part lets the peer read our alert or refusal before the connection goes: a close with octets
// unread would be a reset, and could overtake it.
void Session::part() {
  stage_ = Stage::kParting;
  deadline_ = worker_.now_ + kPartingTime;
  shutdown(peer_.fd.get(), SHUT_WR);
  read_away();
}

void Session::read_away() {
  // A peer that never stops must not keep the worker: a share, then it is the turn of others.
  constexpr unsigned kReads = 16;
  char sink[4096];
  ssize_t n = 1;
  for (unsigned i = 0; i < kReads && n > 0; ++i)
    n = recv(peer_.fd.get(), sink, sizeof sink, MSG_DONTWAIT);
  if (n > 0 || (n < 0 && errno == EAGAIN)) return wait_for(peer_, EPOLLIN);
  close_both(false);
}

void Session::end(Ending how, const std::string& why) {
  const auto level =
      how == Ending::kComplete || how == Ending::kReset ? spdlog::level::info : spdlog::level::warn;
  spdlog::log(level, "{}: closed ({}): {}; {}, {} to the peer, {} from it, {:.3f} s", who(),
              name(how), why, protection_, counted(counted_to_peer_, "octet"), counted_from_peer_,
              seconds_since(started_));
  worker_.counters_.ended[static_cast<std::size_t>(how)].add();
  close_both(how != Ending::kComplete && how != Ending::kRetired);
}

void Session::give_up(const char* what) {
  if (stage_ == Stage::kOver) return;
  spdlog::error("a connection is given up: {}", what);
  if (stage_ == Stage::kRelay)
    worker_.counters_.ended[static_cast<std::size_t>(Ending::kReset)].add();
  else if (stage_ != Stage::kParting)
    worker_.counters_.refused[static_cast<std::size_t>(Refusal::kProtocol)].add();
  close_both(true);
}

void Session::close_both(bool reset) {
  stage_ = Stage::kOver;
  slot_.reset();  // before its descriptor is another's
  drop(clear_, reset);
  drop(peer_, reset);
  worker_.over_.splice(worker_.over_.end(), worker_.sessions_, self);
}

void Session::drop(Side& side, bool reset) {
  if (side.fd && reset) reset_on_close(side.fd.get());
  side.fd.reset();
}

// --- waiting ---

// watch: one that nobody would wake any more is given up.
bool Session::watch(Side& side, std::uint32_t events) {
  const bool done = worker_.watch(side.fd.get(), events, side, std::exchange(side.watched, true));
  if (!done) give_up(std::strerror(errno));
  return done;
}

void Session::wait_for(Side& side, std::uint32_t events) { watch(side, events | EPOLLONESHOT); }

void Session::wait_for(Step step) { wait_for(peer_, step == Step::kWantRead ? EPOLLIN : EPOLLOUT); }

std::string Session::who() const {
  return peer_name_.empty() ? from_ : fmt::format("{} ({})", from_, peer_name_);
}

}  // namespace psp::proxy
