// SPDX-License-Identifier: Apache-2.0
//
// The key exchange: turns a TLS 1.3 connection into a PSP connection on the same TCP socket.
//
//     both:  OFFER   inside TLS   what I can receive, and whether I would stay on TLS
//            (the same choice on both sides; rx-assoc)
//     both:  KEY     inside TLS   my SPI and key: the last octets that I send in clear TCP
//            (nothing unread? tx-assoc)
//     both:  START   under PSP    proof that this is the connection of that TLS session, between
//                                 these addresses and ports
//
// or ERROR in place of KEY. Inside TLS each message stands behind a mark that only the two ends of
// this TLS session can compute; whatever else comes is the application's and is kept for it. A man
// in the middle can neither see nor change an offer, and START tells when he cut octets off the
// beginning of the PSP stream (clear TCP sequence numbers are not protected).
#pragma once

#include "keyx/message.hh"
#include "keyx/upgrade.hh"
#include "keyx/versions.hh"

namespace psp::keyx {

class TlsStream;

inline constexpr std::size_t kMarkSize = 16;
inline constexpr std::size_t kStartSize = 40;

// Exchange is the state machine of one side, for Protocol::kSoftpsp. See make_upgrade for what it
// asks of `ssl` and what it leaves.
class Exchange final : public Upgrade {
 public:
  Exchange(SSL* ssl, PspOps& ops, const Policy& policy);
  ~Exchange() override;

  Step step() override;
  bool done() const override { return stage_ == Stage::kDone; }
  const char* waiting_for() const override;

 private:
  enum class Stage {
    kBegin,
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
    kHandBack,  // what was read too far goes to the application, then stay on TLS
    kDone,
    kFailed,
  };
  using StartBytes = crypto::Secret<kStartSize>;
  using Mark = crypto::Secret<kMarkSize>;

  // Each does its part and says how to go on: kDone means "next stage".
  Step run_stages();
  Step run_stage();
  Step begin();
  Step send_offer();
  Step read_offer();
  Step decide();
  Step send_key();
  Step read_key();
  Step accept_key(KeyMessage& key);
  Step install_tx();
  Step send_start();
  Step read_start();
  Step send_refusal();
  Step read_tls_refusal();
  Step hand_back();

  Step read_message();
  // mark_at is where in in_ the peer's mark stands, its size if nowhere; octets_before_mark is how
  // many octets are the application's, whatever comes.
  std::size_t mark_at() const;
  std::size_t octets_before_mark() const;
  // hand_over gives the application the first `count` octets of in_. False: early_max allows fewer.
  bool hand_over(std::size_t count);
  // take_message is true if a whole message, its mark in front of in_, was moved to message_.
  std::expected<bool, ParseError> take_message();
  void drop_in(std::size_t count);
  Step socket_failure(const char* doing, int error);
  Step stay_on_tls(std::string why);
  Step no_common_version();
  Step refuse(Refusal code, Error error);
  Step bad_message(const ParseError& problem);
  Step peer_refused(const ErrorMessage& error);
  Step fail(ErrorCode code, std::string message, int sys_errno = 0);
  Step fail(Error error);
  bool make_marks();
  bool make_starts();
  void queue(const MessageBytes& message);

  std::unique_ptr<TlsStream> tls_;
  PspOps& ops_;
  Policy policy_;
  Stage stage_ = Stage::kBegin;
  bool key_sent_ = false;
  unsigned tx_tries_ = 0;
  Offer own_, peer_;
  Ends ends_;
  Version version_ = Version::kAesGcm256;
  KeyInfo tx_;
  Mark mark_own_, mark_peer_;
  crypto::Secret<2 * (kMarkSize + kMessageMax)> in_;  // read and not yet sorted
  MessageBytes message_;
  StartBytes start_own_, start_peer_, start_in_;
  std::size_t start_done_ = 0;
};

}  // namespace psp::keyx
