// SPDX-License-Identifier: Apache-2.0
//
// The state machine of the key exchange. Each stage is a function that either asks the caller to
// wait, or fails, or says kDone, whereupon run_stage goes to the next one.
//
// What keeps a connection from hanging for ever: once a side has its Tx key, clear data that still
// arrives is dropped and never acknowledged. So KEY is the last thing that goes through TLS, and
// nothing of TLS may follow it: no ticket, no KeyUpdate, no close_notify, no ERROR.
#include "keyx/exchange.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <sys/socket.h>
#include <utility>

#include "wire/bytes.hh"

#include "tls_stream.hh"

namespace psp::keyx {
namespace {

constexpr char kMarkLabel[] = "EXPORTER-softpsp-mark";
constexpr char kStartLabel[] = "EXPORTER-softpsp-start";
constexpr std::uint8_t kStartMagic[4] = {'P', 'S', 'P', 'S'};
constexpr std::size_t kStartHeader = 8;  // magic, role, three octets of zero

}  // namespace

Exchange::Exchange(SSL* ssl, PspOps& ops, const Policy& policy)
    : tls_(std::make_unique<TlsStream>(ssl)), ops_(ops), policy_(policy) {}

Exchange::~Exchange() = default;

const char* Exchange::waiting_for() const {
  switch (stage_) {
    case Stage::kBegin:
    case Stage::kSendOffer:
      return "the peer to take our offer";
    case Stage::kReadOffer:
    case Stage::kDecide:
      return "the peer's offer";
    case Stage::kSendKey:
      return "the peer to take our key";
    case Stage::kReadKey:
    case Stage::kReadTlsRefusal:
      return "the peer's key";
    case Stage::kTxAssoc:
      return "clear data to leave the receive queue";
    case Stage::kSendStart:
      return "the peer to take our start of PSP";
    case Stage::kReadStart:
      return "the peer's start of PSP (the first packets under PSP)";
    case Stage::kSendRefusal:
    case Stage::kSendTlsRefusal:
      return "the peer to take our refusal";
    case Stage::kHandBack:
      return "the application to take what the peer's has sent";
    case Stage::kDone:
    case Stage::kFailed:
      break;
  }
  return "nothing";
}

Step Exchange::step() {
  return bounded_step(tls_->ssl(), [this] { return run_stages(); });
}

Step Exchange::run_stages() {
  for (;;) {
    if (stage_ == Stage::kDone) return Step::kDone;
    if (stage_ == Stage::kFailed) return Step::kFailed;
    const Step step = run_stage();
    if (step != Step::kDone) return step;
  }
}

Step Exchange::run_stage() {
  struct Transition {
    Step (Exchange::*run)();
    Stage stage;
    Stage next;
  };
  static constexpr Transition kTransitions[] = {
      {&Exchange::begin, Stage::kBegin, Stage::kSendOffer},
      {&Exchange::send_offer, Stage::kSendOffer, Stage::kReadOffer},
      {&Exchange::read_offer, Stage::kReadOffer, Stage::kDecide},
      {&Exchange::decide, Stage::kDecide, Stage::kSendKey},
      {&Exchange::send_key, Stage::kSendKey, Stage::kReadKey},
      {&Exchange::read_key, Stage::kReadKey, Stage::kTxAssoc},
      {&Exchange::install_tx, Stage::kTxAssoc, Stage::kSendStart},
      {&Exchange::send_start, Stage::kSendStart, Stage::kReadStart},
      {&Exchange::read_start, Stage::kReadStart, Stage::kDone},
      {&Exchange::send_refusal, Stage::kSendRefusal, Stage::kFailed},
      {&Exchange::send_offer, Stage::kSendTlsRefusal, Stage::kReadTlsRefusal},
      {&Exchange::read_tls_refusal, Stage::kReadTlsRefusal, Stage::kDone},
      {&Exchange::hand_back, Stage::kHandBack, Stage::kDone},
  };
  for (const Transition& transition : kTransitions) {
    if (transition.stage != stage_) continue;
    const Step step = (this->*transition.run)();
    // A stage that sets stage_ itself (a refusal, staying on TLS, a failure) wins over `next`.
    if (step == Step::kDone && stage_ == transition.stage) stage_ = transition.next;
    return step;
  }
  return Step::kFailed;
}

Step Exchange::begin() {
  if (auto error = tls_->unfit()) return fail(std::move(*error));
  if (announced(tls_->ssl()) == Announced::kNo) {
    if (policy_.allow_tls)
      return stay_on_tls("the other end did not announce PSP in its TLS handshake");
    return fail(ErrorCode::kNoPsp, "the other end did not announce PSP in its TLS handshake");
  }
  if (auto error = keep_urgent_inline(tls_->fd())) return fail(std::move(*error));
  if (!make_marks())
    return fail(ErrorCode::kProtocol, "TLS gave no exporter secret; nothing can prove the start");
  const Availability availability = ops_.available(tls_->fd());
  own_ = {.versions = {availability.versions.bits & policy_.versions.bits},
          .tls_allowed = policy_.allow_tls,
          .absence = availability.absence,
          .reason = availability.reason};
  if (own_.versions.bits == 0 && availability.versions.bits != 0) {
    own_.absence = Absence::kPolicy;
    own_.reason = fmt::format("only {} is allowed, but the device has {} enabled",
                              names(policy_.versions), names(availability.versions));
  }
  queue(serialize(own_));
  return Step::kDone;
}

Step Exchange::send_offer() {
  auto io = tls_->flush();
  return io.step == Step::kFailed ? fail(std::move(io.error)) : io.step;
}

Step Exchange::read_offer() {
  if (const Step step = read_message(); step != Step::kDone) return step;
  auto message = parse(message_.span());
  message_.wipe();
  if (!message) return bad_message(message.error());
  if (const auto* error = std::get_if<ErrorMessage>(&*message)) return peer_refused(*error);
  auto* offer = std::get_if<Offer>(&*message);
  if (offer == nullptr) return bad_message({ParseError::Kind::kBadField, "is not an offer"});
  peer_ = std::move(*offer);
  return Step::kDone;
}

Step Exchange::decide() {
  const auto version = choose_version(own_.versions, peer_.versions);
  if (!version) return no_common_version();
  version_ = *version;
  const auto ends = ops_.ends(tls_->fd());
  ends_ = ends.value_or(Ends{});
  auto assoc = ends ? ops_.rx_assoc(tls_->fd(), version_) : std::unexpected(ends.error());
  if (assoc && (assoc->rx.key.size() != key_size(version_) || !assoc->rx.spi.valid()))
    assoc = client_error(EPROTO, "the PSP device gave an unusable key");
  if (!assoc) {
    const std::string text = assoc.error().message;
    if (own_.tls_allowed && peer_.tls_allowed) {
      queue(serialize(ErrorMessage{Refusal::kRxAssoc, text}));
      outcome_.why_tls = fmt::format("no Rx key: {}", text);
      stage_ = Stage::kSendTlsRefusal;
      return Step::kDone;
    }
    return refuse(Refusal::kRxAssoc, {ErrorCode::kRxAssoc, assoc.error().sys_errno,
                                      fmt::format("cannot get an Rx key: {}", text)});
  }
  outcome_.version = version_;
  outcome_.dev_id = assoc->dev_id;
  outcome_.rx_spi = assoc->rx.spi;
  key_sent_ = true;
  queue(serialize(KeyMessage{version_, assoc->rx.spi, std::move(assoc->rx.key)}));
  return Step::kDone;
}

Step Exchange::no_common_version() {
  const std::string why =
      fmt::format("{}; {}", side_says("this end", own_), side_says("the other end", peer_));
  if (own_.tls_allowed && peer_.tls_allowed) return stay_on_tls(why);
  std::string tls = "allow TLS on both ends to go on without PSP";
  if (own_.tls_allowed) tls = "the other end does not allow TLS instead";
  if (peer_.tls_allowed) tls = "this end does not allow TLS instead";
  return fail(ErrorCode::kNoPsp, fmt::format("no PSP version in common: {}; {}", why, tls),
              own_.absence == Absence::kPermission ? EACCES : 0);
}

Step Exchange::send_key() {
  if (const Step step = send_offer(); step != Step::kDone) return step;
  // From here on nothing of ours may follow through TLS, not even when the SSL is freed.
  tls_->close_out();
  return Step::kDone;
}

Step Exchange::read_key() {
  if (const Step step = read_message(); step != Step::kDone) return step;
  auto message = parse(message_.span());
  message_.wipe();
  if (!message) return bad_message(message.error());
  if (const auto* error = std::get_if<ErrorMessage>(&*message)) {
    if (error->code != Refusal::kRxAssoc || !own_.tls_allowed || !peer_.tls_allowed)
      return peer_refused(*error);
    if (!tls_->reopen_out())
      return fail(ErrorCode::kProtocol,
                  "the other end refused, and asked for a TLS KeyUpdate in front of that");
    return stay_on_tls(fmt::format("the other end has no Rx key: {}", error->text));
  }
  auto* key = std::get_if<KeyMessage>(&*message);
  if (key == nullptr) return bad_message({ParseError::Kind::kBadField, "is not a key"});
  return accept_key(*key);
}

Step Exchange::accept_key(KeyMessage& key) {
  if (key.version != version_)
    return bad_message({ParseError::Kind::kBadField, "has a key of a PSP version not agreed upon"});
  if (!in_.empty() || tls_->unread())
    return fail(ErrorCode::kClearData,
                "the peer sent more inside TLS after its key, which must be its last; its software "
                "is faulty");
  tx_ = {key.spi, std::move(key.key)};
  outcome_.tx_spi = tx_.spi;
  if (!make_starts())
    return fail(ErrorCode::kProtocol, "TLS gave no exporter secret; nothing can prove the start");
  return Step::kDone;
}

Step Exchange::install_tx() {
  for (;;) {
    const auto done = ops_.tx_assoc(tls_->fd(), version_, tx_);
    if (done) break;
    if (done.error().sys_errno != EBUSY)
      return fail(ErrorCode::kTxAssoc,
                  fmt::format("cannot install the Tx key: {}", done.error().message),
                  done.error().sys_errno);
    // Alerts and tickets of a peer that does not know better can be taken off; clear data cannot.
    auto drained = tls_->drain();
    if (drained.step == Step::kFailed) return fail(std::move(drained.error));
    if (drained.size > 0) continue;
    if (++tx_tries_ < kTxAssocTries) return Step::kWantRetry;
    return fail(
        ErrorCode::kClearData,
        fmt::format("the peer sent clear data after its key, or somebody put it in on the way: "
                    "{}; the connection cannot be trusted, try again",
                    done.error().message),
        EBUSY);
  }
  tx_.key.wipe();
  start_in_.resize(kStartSize);
  start_done_ = 0;
  return Step::kDone;
}

// One request to the exporter for both sides: each costs as much as sealing 60 packets.
bool Exchange::make_marks() {
  crypto::Secret<2 * kMarkSize> both;
  both.resize(2 * kMarkSize);
  if (SSL_export_keying_material(tls_->ssl(), both.data(), both.size(), kMarkLabel,
                                 sizeof kMarkLabel - 1, nullptr, 0, 0) != 1)
    return false;
  const auto client = both.span().first(kMarkSize), server = both.span().last(kMarkSize);
  mark_own_.assign(tls_->server() ? server : client);
  mark_peer_.assign(tls_->server() ? client : server);
  return true;
}

bool Exchange::make_starts() {
  // The context ties the proofs to the version, both SPIs and both ends. The ends by their roles
  // are what a reflection cannot have: A, whose packets come back to A as if B had sent them, is
  // client and server of one TLS session, if A has one secret for both (RFC 9257: the Selfie
  // attack).
  const bool is_server = tls_->server();
  std::uint8_t context[9 + 2 * sizeof(End)];
  context[0] = static_cast<std::uint8_t>(version_);
  wire::store_be(context + 1, (is_server ? outcome_.tx_spi : outcome_.rx_spi).value);
  wire::store_be(context + 5, (is_server ? outcome_.rx_spi : outcome_.tx_spi).value);
  std::ranges::copy(is_server ? ends_.remote : ends_.local, context + 9);
  std::ranges::copy(is_server ? ends_.local : ends_.remote, context + 9 + sizeof(End));
  constexpr std::size_t kProof = kStartSize - kStartHeader;
  crypto::Secret<2 * kProof> both;
  both.resize(2 * kProof);
  if (SSL_export_keying_material(tls_->ssl(), both.data(), both.size(), kStartLabel,
                                 sizeof kStartLabel - 1, context, sizeof context, 1) != 1)
    return false;
  for (const std::uint8_t side : {0, 1}) {  // client, server
    StartBytes& out = side == (is_server ? 1 : 0) ? start_own_ : start_peer_;
    out.resize(kStartSize);
    std::memset(out.data(), 0, kStartHeader);
    std::memcpy(out.data(), kStartMagic, sizeof kStartMagic);
    out.data()[4] = side;
    std::memcpy(out.data() + kStartHeader, both.data() + side * kProof, kProof);
  }
  return true;
}

Step Exchange::send_start() {
  while (start_done_ < kStartSize) {
    const ssize_t n =
        send(tls_->fd(), start_own_.data() + start_done_, kStartSize - start_done_, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return Step::kWantWrite;
      return socket_failure("sending the start of PSP", errno);
    }
    start_done_ += static_cast<std::size_t>(n);
  }
  start_done_ = 0;
  return Step::kDone;
}

Step Exchange::read_start() {
  while (start_done_ < kStartSize) {
    const ssize_t n = recv(tls_->fd(), start_in_.data() + start_done_, kStartSize - start_done_, 0);
    if (n == 0)
      return fail(ErrorCode::kPeerClosed,
                  "the peer closed the connection before its start of PSP; see its own message");
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return Step::kWantRead;
      return socket_failure("waiting for the start of PSP", errno);
    }
    start_done_ += static_cast<std::size_t>(n);
  }
  const bool equal = crypto::constant_time_equal(start_in_.span(), start_peer_.span());
  start_in_.wipe();
  start_own_.wipe();
  start_peer_.wipe();
  if (!equal)
    return fail(
        ErrorCode::kAuthentication,
        "the PSP stream does not start as agreed inside TLS: octets were cut off or put in "
        "on the way, or the two ends do not see the same addresses and ports (a reflection, "
        "NAT); do not trust this network path");
  outcome_.proven = true;
  tls_->retire();
  return Step::kDone;
}

Step Exchange::send_refusal() {
  // The reason is in error_ already: a failure to tell the peer does not replace it.
  const Step step = tls_->flush().step;
  return step == Step::kDone || step == Step::kFailed ? fail(Error(error_)) : step;
}

Step Exchange::read_tls_refusal() {
  if (const Step step = read_message(); step != Step::kDone) return step;
  auto message = parse(message_.span());
  message_.wipe();
  if (!message) return bad_message(message.error());
  // The peer's KEY crossed our refusal; it is of no use now. Its own refusal is as good.
  if (std::holds_alternative<Offer>(*message))
    return bad_message({ParseError::Kind::kBadField, "is a second offer"});
  return stay_on_tls(outcome_.why_tls);
}

// hand_back ends the upgrade on TLS: what came behind the last message is the application's.
Step Exchange::hand_back() { return hand_over(in_.size()) ? Step::kDone : Step::kWantDrain; }

// read_message gets the next message of the peer into message_; what stands in front of it is the
// application's.
Step Exchange::read_message() {
  for (;;) {
    if (!hand_over(octets_before_mark())) return Step::kWantDrain;
    const auto taken = take_message();
    if (!taken) return bad_message(taken.error());
    if (*taken) return Step::kDone;
    const std::size_t at = in_.size();
    in_.resize(at + kMarkSize + kMessageMax);
    auto io = tls_->read({in_.data() + at, in_.size() - at},
                         fmt::format("waiting for {}", waiting_for()));
    in_.resize(at + io.size);
    if (io.step == Step::kFailed) return fail(std::move(io.error));
    if (io.step != Step::kDone) return io.step;
  }
}

std::size_t Exchange::mark_at() const {
  const auto octets = in_.span();
  const auto mark = mark_peer_.span();
  return static_cast<std::size_t>(
      std::search(octets.begin(), octets.end(), mark.begin(), mark.end()) - octets.begin());
}

std::size_t Exchange::octets_before_mark() const {
  const std::size_t at = mark_at();
  if (at < in_.size()) return at;
  // The end may be the beginning of a mark.
  const auto octets = in_.span();
  std::size_t keep = std::min(octets.size(), kMarkSize - 1);
  while (!std::equal(octets.end() - static_cast<std::ptrdiff_t>(keep), octets.end(),
                     mark_peer_.data()))
    --keep;
  return octets.size() - keep;
}

bool Exchange::hand_over(std::size_t count) {
  const std::size_t now = std::min(count, policy_.early_max - pending());
  keep_early(in_.span().first(now));
  drop_in(now);
  return now == count;
}

std::expected<bool, ParseError> Exchange::take_message() {
  if (in_.size() < kMarkSize + kMessageHeader) return false;
  const auto length = body_length(in_.span().subspan(kMarkSize, kMessageHeader));
  if (!length) return std::unexpected(length.error());
  const std::size_t size = kMessageHeader + *length;
  if (in_.size() < kMarkSize + size) return false;
  message_.assign(in_.span().subspan(kMarkSize, size));
  drop_in(kMarkSize + size);
  return true;
}

void Exchange::drop_in(std::size_t count) {
  const std::size_t left = in_.size() - count;
  std::memmove(in_.data(), in_.data() + count, left);
  in_.resize(left);
}

Step Exchange::socket_failure(const char* doing, int error) {
  const ErrorCode code =
      error == ECONNRESET || error == EPIPE ? ErrorCode::kPeerClosed : ErrorCode::kIo;
  return fail(code,
              fmt::format("the connection broke while {}: {}; see the peer's own message", doing,
                          std::strerror(error)),
              error);
}

Step Exchange::stay_on_tls(std::string why) {
  urgent_as_before(tls_->fd());
  outcome_ = {.kind = Outcome::Kind::kTls, .why_tls = std::move(why)};
  stage_ = Stage::kHandBack;
  return Step::kDone;
}

Step Exchange::refuse(Refusal code, Error error) {
  queue(serialize(ErrorMessage{code, error.message}));
  error_ = std::move(error);
  stage_ = Stage::kSendRefusal;
  return Step::kDone;
}

Step Exchange::bad_message(const ParseError& problem) {
  const bool other_version = problem.kind == ParseError::Kind::kOtherVersion;
  Error error{ErrorCode::kProtocol, EPROTO,
              fmt::format("the peer's message {}; {}", problem.text,
                          other_version ? "use the same release of softpsp on both ends"
                                        : "is the other end softpsp?")};
  in_.wipe();
  // Behind our KEY nothing may follow; and who does not speak our protocol would not understand.
  if (key_sent_ || problem.kind == ParseError::Kind::kNotOurs) return fail(std::move(error));
  return refuse(other_version ? Refusal::kOtherVersion : Refusal::kMalformed, std::move(error));
}

Step Exchange::peer_refused(const ErrorMessage& error) {
  return fail(ErrorCode::kPeerRefused,
              fmt::format("the other end gave up: {}",
                          error.text.empty() ? "it does not say why" : error.text));
}

Step Exchange::fail(ErrorCode code, std::string message, int sys_errno) {
  return fail(Error{code, sys_errno, std::move(message)});
}

Step Exchange::fail(Error error) {
  error_ = std::move(error);
  stage_ = Stage::kFailed;
  hand_over(mark_at());  // as far as there is room: behind a failure nobody drains
  in_.wipe();
  message_.wipe();
  tx_.key.wipe();
  start_own_.wipe();
  start_peer_.wipe();
  return Step::kFailed;
}

void Exchange::queue(const MessageBytes& message) {
  tls_->queue(mark_own_.span());
  tls_->queue(message.span());
}

}  // namespace psp::keyx
