// SPDX-License-Identifier: Apache-2.0
//
// The state machine of the key exchange. Each stage is a function that either asks the caller to
// wait, or fails, or says kDone, whereupon run_stage goes to the next one.
//
// What keeps a connection from hanging for ever: once a side has its Tx key, clear data that still
// arrives is dropped and never acknowledged. So KEY is the last thing that goes through TLS, and
// nothing of TLS may follow it: no ticket, no KeyUpdate, no close_notify, no ERROR.
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <openssl/err.h>
#include <sys/socket.h>
#include <utility>

#include <psp/keyx/exchange.hh>
#include <psp/keyx/tls.hh>
#include <psp/wire/bytes.hh>

namespace psp::keyx {
namespace {

constexpr char kExporterLabel[] = "EXPORTER-softpsp-start";
constexpr std::uint8_t kStartMagic[4] = {'P', 'S', 'P', 'S'};
constexpr std::size_t kStartHeader = 8;  // magic, role, three octets of zero

std::string names(VersionSet set) {
  std::string out;
  for (unsigned i = 0; i < kVersions; ++i) {
    const auto version = static_cast<Version>(i);
    if (set.has(version)) out += (out.empty() ? "" : ", ") + std::string(name(version));
  }
  return out.empty() ? "none" : out;
}

// side_says is a side's part of the sentence why there is no PSP.
std::string side_says(const char* who, const Offer& offer) {
  if (offer.versions.bits != 0) return fmt::format("{} can receive {}", who, names(offer.versions));
  return fmt::format("{} cannot receive PSP{}{}", who, offer.reason.empty() ? "" : ": ",
                     offer.reason);
}

}  // namespace

std::optional<Version> choose_version(VersionSet a, VersionSet b) {
  for (Version version :
       {Version::kAesGcm256, Version::kAesGcm128, Version::kAesGmac256, Version::kAesGmac128})
    if (a.has(version) && b.has(version)) return version;
  return std::nullopt;
}

Exchange::Exchange(SSL* ssl, PspOps& ops, Policy policy)
    : ssl_(ssl), ops_(ops), policy_(policy), fd_(SSL_get_fd(ssl)), server_(SSL_is_server(ssl)) {
  // Read-ahead could take octets of the PSP stream into the TLS library.
  SSL_set_read_ahead(ssl_, 0);
  SSL_set_mode(ssl_, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_set_msg_callback(ssl_, &Exchange::on_tls_message);
  SSL_set_msg_callback_arg(ssl_, this);
}

Exchange::~Exchange() {
  SSL_set_msg_callback(ssl_, nullptr);
  SSL_set_msg_callback_arg(ssl_, nullptr);
}

void Exchange::on_tls_message(int write, int, int content_type, const void*, std::size_t, SSL*,
                              void* self) {
  auto* exchange = static_cast<Exchange*>(self);
  // A server's session tickets come in front of its offer and do no harm there. Later they would:
  // the library could answer a KeyUpdate behind our KEY.
  if (exchange != nullptr && write == 0 && content_type == SSL3_RT_HANDSHAKE &&
      exchange->peer_offered_)
    exchange->late_handshake_ = true;
}

const char* Exchange::waiting_for() const {
  switch (stage_) {
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
    case Stage::kDone:
    case Stage::kFailed:
      break;
  }
  return "nothing";
}

Step Exchange::step() {
  for (;;) {
    if (stage_ == Stage::kDone) return Step::kDone;
    if (stage_ == Stage::kFailed) return Step::kFailed;
    const Step step = run_stage();
    if (step != Step::kDone) return step;
  }
}

Step Exchange::run_stage() {
  Step step = Step::kDone;
  // A stage that sets stage_ itself (a refusal, staying on TLS, a failure) wins over `next`.
  const auto then = [&](Stage from, Stage next) {
    if (step == Step::kDone && stage_ == from) stage_ = next;
    return step;
  };
  switch (const Stage from = stage_; from) {
    case Stage::kSendOffer:
      step = send_offer();
      return then(from, Stage::kReadOffer);
    case Stage::kReadOffer:
      step = read_offer();
      return then(from, Stage::kDecide);
    case Stage::kDecide:
      step = decide();
      return then(from, Stage::kSendKey);
    case Stage::kSendKey:
      step = flush();
      return then(from, Stage::kReadKey);
    case Stage::kReadKey:
      step = read_key();
      return then(from, Stage::kTxAssoc);
    case Stage::kTxAssoc:
      step = install_tx();
      return then(from, Stage::kSendStart);
    case Stage::kSendStart:
      step = send_start();
      return then(from, Stage::kReadStart);
    case Stage::kReadStart:
      step = read_start();
      return then(from, Stage::kDone);
    case Stage::kSendRefusal:
      // The reason is in error_ already: a failure to tell the peer does not replace it.
      if (const Error reason = error_; (step = flush()) == Step::kFailed || step == Step::kDone) {
        error_ = reason;
        stage_ = Stage::kFailed;
        return Step::kFailed;
      }
      return step;
    case Stage::kSendTlsRefusal:
      step = flush();
      return then(from, Stage::kReadTlsRefusal);
    case Stage::kReadTlsRefusal:
      step = read_tls_refusal();
      return then(from, Stage::kDone);
    case Stage::kDone:
    case Stage::kFailed:
      break;
  }
  return step;
}

Step Exchange::send_offer() {
  if (!offered_) {
    if (SSL_version(ssl_) != TLS1_3_VERSION || !SSL_is_init_finished(ssl_) || fd_ < 0 ||
        SSL_get_wfd(ssl_) != fd_)
      return fail(ErrorCode::kUsage,
                  "the PSP exchange needs a finished TLS 1.3 handshake on one socket");
    const Availability availability = ops_.available(fd_);
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
    offered_ = true;
  }
  return flush();
}

Step Exchange::read_offer() {
  if (const Step step = read_message(); step != Step::kDone) return step;
  auto message = parse(in_.span());
  in_.wipe();
  if (!message) return bad_message(message.error());
  if (const auto* error = std::get_if<ErrorMessage>(&*message)) return peer_refused(*error);
  auto* offer = std::get_if<Offer>(&*message);
  if (offer == nullptr) return bad_message({ParseError::Kind::kBadField, "is not an offer"});
  peer_ = std::move(*offer);
  peer_offered_ = true;
  return Step::kDone;
}

Step Exchange::decide() {
  const auto version = choose_version(own_.versions, peer_.versions);
  if (!version) return no_common_version();
  version_ = *version;
  auto rx = ops_.rx_assoc(fd_, version_);
  if (rx && (rx->key.size() != key_size(version_) || !rx->spi.valid()))
    rx = std::unexpected(OpsError{EPROTO, "the PSP device gave an unusable key"});
  if (!rx) {
    const std::string text = rx.error().message;
    if (own_.tls_allowed && peer_.tls_allowed) {
      queue(serialize(ErrorMessage{Refusal::kRxAssoc, text}));
      outcome_.why_tls = fmt::format("no Rx key: {}", text);
      stage_ = Stage::kSendTlsRefusal;
      return Step::kDone;
    }
    return refuse(Refusal::kRxAssoc, {ErrorCode::kRxAssoc, rx.error().sys_errno,
                                      fmt::format("cannot get an Rx key: {}", text)});
  }
  outcome_.version = version_;
  outcome_.rx_spi = rx->spi;
  // From here on nothing of ours may follow through TLS, not even when the SSL is freed.
  key_sent_ = true;
  SSL_set_quiet_shutdown(ssl_, 1);
  queue(serialize(KeyMessage{version_, rx->spi, std::move(rx->key)}));
  return Step::kDone;
}

Step Exchange::no_common_version() {
  const std::string why =
      fmt::format("{}; {}", side_says("this end", own_), side_says("the other end", peer_));
  if (own_.tls_allowed && peer_.tls_allowed) return stay_on_tls(why);
  std::string tls = "allow TLS on both ends (--allow-tls) to go on without PSP";
  if (own_.tls_allowed) tls = "the other end does not allow TLS instead";
  if (peer_.tls_allowed) tls = "this end does not allow TLS instead";
  return fail(ErrorCode::kNoPsp, fmt::format("no PSP version in common: {}; {}", why, tls),
              own_.absence == Absence::kPermission ? EACCES : 0);
}

Step Exchange::read_key() {
  if (const Step step = read_message(); step != Step::kDone) return step;
  auto message = parse(in_.span());
  in_.wipe();
  if (!message) return bad_message(message.error());
  if (const auto* error = std::get_if<ErrorMessage>(&*message)) {
    if (error->code == Refusal::kRxAssoc && own_.tls_allowed && peer_.tls_allowed) {
      SSL_set_quiet_shutdown(ssl_, 0);
      return stay_on_tls(fmt::format("the other end has no Rx key: {}", error->text));
    }
    return peer_refused(*error);
  }
  auto* key = std::get_if<KeyMessage>(&*message);
  if (key == nullptr) return bad_message({ParseError::Kind::kBadField, "is not a key"});
  return accept_key(*key);
}

Step Exchange::accept_key(KeyMessage& key) {
  if (key.version != version_)
    return bad_message({ParseError::Kind::kBadField, "has a key of a PSP version not agreed upon"});
  if (SSL_pending(ssl_) != 0 || SSL_has_pending(ssl_) != 0)
    return fail(ErrorCode::kClearData,
                "the peer sent more inside TLS after its key, which must be its last; its software "
                "is faulty");
  if (late_handshake_)
    return fail(ErrorCode::kProtocol,
                "the peer sent a TLS handshake message (ticket or KeyUpdate) during the exchange; "
                "turn session tickets off in its software");
  tx_ = {key.spi, std::move(key.key)};
  outcome_.tx_spi = tx_.spi;
  if (!make_start(server_, start_own_) || !make_start(!server_, start_peer_))
    return fail(ErrorCode::kProtocol, "TLS gave no exporter secret; nothing can prove the start");
  return Step::kDone;
}

Step Exchange::install_tx() {
  const auto done = ops_.tx_assoc(fd_, version_, tx_);
  if (done) {
    tx_.key.wipe();
    start_in_.resize(kStartSize);
    start_done_ = 0;
    return Step::kDone;
  }
  if (done.error().sys_errno != EBUSY)
    return fail(ErrorCode::kTxAssoc,
                fmt::format("cannot install the Tx key: {}", done.error().message),
                done.error().sys_errno);
  if (++tx_tries_ < kTxAssocTries) return Step::kWantRetry;
  return fail(
      ErrorCode::kClearData,
      fmt::format("the peer sent clear data after its key, or somebody put it in on the way: "
                  "{}; the connection cannot be trusted, try again",
                  done.error().message),
      EBUSY);
}

bool Exchange::make_start(bool by_server, StartBytes& out) const {
  // The context ties the proof to its sender and to both SPIs.
  const Spi client = server_ ? outcome_.tx_spi : outcome_.rx_spi;
  const Spi server = server_ ? outcome_.rx_spi : outcome_.tx_spi;
  std::uint8_t context[9];
  context[0] = by_server ? 1 : 0;
  wire::store_be(context + 1, client.value);
  wire::store_be(context + 5, server.value);
  out.resize(kStartSize);
  std::memcpy(out.data(), kStartMagic, sizeof kStartMagic);
  out.data()[4] = context[0];
  return SSL_export_keying_material(ssl_, out.data() + kStartHeader, kStartSize - kStartHeader,
                                    kExporterLabel, sizeof kExporterLabel - 1, context,
                                    sizeof context, 1) == 1;
}

Step Exchange::send_start() {
  while (start_done_ < kStartSize) {
    const ssize_t n =
        send(fd_, start_own_.data() + start_done_, kStartSize - start_done_, MSG_NOSIGNAL);
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
    const ssize_t n = recv(fd_, start_in_.data() + start_done_, kStartSize - start_done_, 0);
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
    return fail(ErrorCode::kAuthentication,
                "the PSP stream does not start as agreed inside TLS: octets were cut off or put in "
                "on the way; do not trust this network path");
  return Step::kDone;
}

Step Exchange::read_tls_refusal() {
  if (const Step step = read_message(); step != Step::kDone) return step;
  auto message = parse(in_.span());
  in_.wipe();
  if (!message) return bad_message(message.error());
  // The peer's KEY crossed our refusal; it is of no use now. Its own refusal is as good.
  if (std::holds_alternative<Offer>(*message))
    return bad_message({ParseError::Kind::kBadField, "is a second offer"});
  return stay_on_tls(outcome_.why_tls);
}

Step Exchange::flush() {
  while (out_done_ < out_.size()) {
    std::size_t written = 0;
    ERR_clear_error();
    if (SSL_write_ex(ssl_, out_.data() + out_done_, out_.size() - out_done_, &written) == 1) {
      out_done_ += written;
      continue;
    }
    const int sys_errno = errno;
    const int result = SSL_get_error(ssl_, 0);
    if (result == SSL_ERROR_WANT_READ) return Step::kWantRead;
    if (result == SSL_ERROR_WANT_WRITE) return Step::kWantWrite;
    errno = sys_errno;
    return tls_failure(result, "sending the key exchange");
  }
  out_.wipe();
  out_done_ = 0;
  if (BIO_flush(SSL_get_wbio(ssl_)) != 1) {
    if (BIO_should_retry(SSL_get_wbio(ssl_))) return Step::kWantWrite;
    return fail(ErrorCode::kIo, "the connection failed while the key exchange was sent");
  }
  return Step::kDone;
}

// read_message reads one whole message into in_ and not one octet more.
Step Exchange::read_message() {
  for (;;) {
    std::size_t want = kMessageHeader;
    if (in_done_ >= kMessageHeader) {
      const auto length = body_length({in_.data(), kMessageHeader});
      if (!length) return bad_message(length.error());
      want += *length;
      if (in_done_ == want) break;
    }
    if (in_.size() < want) in_.resize(want);
    std::size_t got = 0;
    ERR_clear_error();
    if (SSL_read_ex(ssl_, in_.data() + in_done_, want - in_done_, &got) == 1) {
      in_done_ += got;
      continue;
    }
    const int sys_errno = errno;
    const int result = SSL_get_error(ssl_, 0);
    if (result == SSL_ERROR_WANT_READ) return Step::kWantRead;
    if (result == SSL_ERROR_WANT_WRITE) return Step::kWantWrite;
    errno = sys_errno;
    return tls_failure(result, "waiting for");
  }
  in_done_ = 0;
  return Step::kDone;
}

Step Exchange::tls_failure(int result, const char* doing) {
  const int sys_errno = errno;
  std::string what = doing;
  if (what == "waiting for") what = fmt::format("waiting for {}", waiting_for());
  Error error = tls_error(ssl_, result, sys_errno, what);
  return fail(error.code, std::move(error.message), error.sys_errno);
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
  outcome_ = {.kind = Outcome::Kind::kTls, .why_tls = std::move(why)};
  stage_ = Stage::kDone;
  return Step::kDone;
}

Step Exchange::refuse(Refusal code, Error error) {
  queue(serialize(ErrorMessage{code, error.message}));
  error_ = std::move(error);
  stage_ = Stage::kSendRefusal;
  return run_stage();
}

Step Exchange::bad_message(const ParseError& problem) {
  const bool other_version = problem.kind == ParseError::Kind::kOtherVersion;
  Error error{ErrorCode::kProtocol, EPROTO,
              fmt::format("the peer's message {}; {}", problem.text,
                          other_version ? "use the same release of softpsp on both ends"
                                        : "is the other end softpsp?")};
  in_.wipe();
  // Behind our KEY nothing may follow; and who does not speak our protocol would not understand.
  if (key_sent_ || problem.kind == ParseError::Kind::kNotOurs)
    return fail(error.code, std::move(error.message), error.sys_errno);
  return refuse(other_version ? Refusal::kOtherVersion : Refusal::kMalformed, std::move(error));
}

Step Exchange::peer_refused(const ErrorMessage& error) {
  return fail(ErrorCode::kPeerRefused,
              fmt::format("the other end gave up: {}",
                          error.text.empty() ? "it does not say why" : error.text));
}

Step Exchange::fail(ErrorCode code, std::string message, int sys_errno) {
  error_ = {code, sys_errno, std::move(message)};
  stage_ = Stage::kFailed;
  in_.wipe();
  out_.wipe();
  tx_.key.wipe();
  start_own_.wipe();
  start_peer_.wipe();
  return Step::kFailed;
}

void Exchange::queue(const MessageBytes& message) {
  const std::size_t at = out_.size();
  out_.resize(at + message.size());
  std::memcpy(out_.data() + at, message.data(), message.size());
}

}  // namespace psp::keyx
