// SPDX-License-Identifier: Apache-2.0
//
// The key exchange: turns a TLS 1.3 connection into a PSP connection on the same TCP socket.
//
//     both:  OFFER   inside TLS   what I can receive, and whether I would stay on TLS
//            (the same choice on both sides; rx-assoc)
//     both:  KEY     inside TLS   my SPI and key: the last octets that I send in clear TCP
//            (nothing unread? tx-assoc)
//     both:  START   under PSP    proof that this is the connection of that TLS session
//
// or ERROR in place of KEY. A man in the middle can neither see nor change an offer, and START
// tells when he cut octets off the beginning of the PSP stream (clear TCP sequence numbers are not
// protected).
#pragma once

#include <chrono>
#include <cstdint>
#include <openssl/ssl.h>
#include <string>

#include <psp/keyx/message.hh>
#include <psp/keyx/ops.hh>
#include <psp/wire/types.hh>

namespace psp::keyx {

// Step says what must happen before the next call.
enum class Step {
  kDone,
  kWantRead,   // the socket must become readable
  kWantWrite,  // the socket must become writable
  kWantRetry,  // kRetryDelay must pass
  kFailed,
};

inline constexpr std::chrono::milliseconds kRetryDelay{20};
inline constexpr unsigned kTxAssocTries = 5;

// Policy is what the user allows.
struct Policy {
  VersionSet versions = VersionSet::all();
  bool allow_tls = false;  // stay on TLS where PSP cannot be had; both sides must allow it
};

enum class ErrorCode {
  kIo,              // the connection broke
  kPeerClosed,      // the peer ended the connection in the middle of the exchange
  kProtocol,        // the peer sent what it must not send
  kAuthentication,  // the peer is not who it must be, or octets were changed on the way
  kNoPsp,           // there is no version that both can receive
  kRxAssoc,         // our provider gave no Rx key
  kTxAssoc,         // our provider did not take the Tx key
  kClearData,       // clear data came after the peer's key
  kPeerRefused,     // the peer said why it cannot go on
  kUsage,           // files or settings are wrong; not the peer's fault
};

// Error is one sentence for people, with a code to branch on.
struct Error {
  ErrorCode code = ErrorCode::kIo;
  int sys_errno = 0;  // of the call that failed; 0: none
  std::string message;
};

// Outcome is what an exchange that is done has come to.
struct Outcome {
  enum class Kind { kPsp, kTls };
  Kind kind = Kind::kPsp;
  Version version = Version::kAesGcm256;  // kPsp only, like the next two
  Spi rx_spi = {}, tx_spi = {};
  std::string why_tls = {};  // kTls: why not PSP
};

// choose_version is the version that both sides settle on, whoever of them computes it: the best of
// those in both sets. Encrypting ones first, longer keys first: 1, 0, 3, 2.
std::optional<Version> choose_version(VersionSet a, VersionSet b);

// Exchange is the state machine of one side. It neither waits nor reads a clock: the time-out is
// the caller's, who simply drops it. On a blocking socket step() blocks instead of returning
// kWant*.
//
// `ssl` is borrowed: a connection by SSL_set_fd with the TLS 1.3 handshake done and session tickets
// off (make_context sees to both). While the Exchange lives nobody else uses it; its message
// callback and modes are the Exchange's. Done with kPsp: the socket is the caller's and nothing
// more may go through `ssl`; SSL_free is all that is left to do (it sends nothing). Not one octet
// behind START has been read. Done with kTls: `ssl` is the caller's again. Failed: close the
// socket. The process must ignore SIGPIPE, as for any use of OpenSSL on sockets. Thread: one user
// at a time.
class Exchange {
 public:
  Exchange(SSL* ssl, PspOps& ops, Policy policy);
  ~Exchange();
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  Step step();

  const Outcome& outcome() const { return outcome_; }  // after kDone
  const Error& error() const { return error_; }        // after kFailed
  // waiting_for is what the exchange lacks now, for a time-out's message: "the peer's offer".
  const char* waiting_for() const;

 private:
  enum class Stage {
    kSendOffer,
    kReadOffer,
    kDecide,
    kSendKey,
    kReadKey,
    kTxAssoc,
    kSendStart,
    kReadStart,
    kSendRefusal,     // flush ERROR, then fail
    kSendTlsRefusal,  // flush ERROR, then read what the peer sends, then stay on TLS
    kReadTlsRefusal,
    kDone,
    kFailed,
  };
  static constexpr std::size_t kStartSize = 40;
  using StartBytes = crypto::Secret<kStartSize>;

  // Each does its part and says how to go on: kDone means "next stage".
  Step run_stage();
  Step send_offer();
  Step read_offer();
  Step decide();
  Step read_key();
  Step accept_key(KeyMessage& key);
  Step install_tx();
  Step send_start();
  Step read_start();
  Step read_tls_refusal();

  Step flush();
  Step read_message();
  Step socket_failure(const char* doing, int error);
  Step tls_failure(int result, const char* doing);
  Step stay_on_tls(std::string why);
  Step no_common_version();
  Step refuse(Refusal code, Error error);
  Step bad_message(const ParseError& problem);
  Step peer_refused(const ErrorMessage& error);
  Step fail(ErrorCode code, std::string message, int sys_errno = 0);
  bool make_start(bool by_server, StartBytes& out) const;
  void queue(const MessageBytes& message);
  static void on_tls_message(int write, int version, int content_type, const void* data,
                             std::size_t size, SSL* ssl, void* self);

  SSL* ssl_;
  PspOps& ops_;
  Policy policy_;
  int fd_;
  bool server_;
  Stage stage_ = Stage::kSendOffer;
  bool offered_ = false;
  bool peer_offered_ = false;
  bool key_sent_ = false;
  bool late_handshake_ = false;  // a TLS handshake message came behind the peer's offer
  unsigned tx_tries_ = 0;
  Offer own_, peer_;
  Version version_ = Version::kAesGcm256;
  KeyInfo tx_;
  crypto::Secret<2 * kMessageMax> out_;
  std::size_t out_done_ = 0;
  MessageBytes in_;
  std::size_t in_done_ = 0;
  StartBytes start_own_, start_peer_, start_in_;
  std::size_t start_done_ = 0;
  Outcome outcome_;
  Error error_;
};

}  // namespace psp::keyx
