// SPDX-License-Identifier: Apache-2.0
//
// Exchanges of other programs, spoken exactly as they speak them and for their sake only: no
// agreement on a version, no staying on TLS, no proof of where the PSP stream begins. fizz-v0 is
// for programs with fizz's PSP upgrade, kernel-selftest for test labs with Linux's psp_responder.
// Nobody gets one by default: Policy::protocol names it. Made by make_upgrade.cc alone.
#pragma once

#include "keyx/message.hh"
#include "keyx/upgrade.hh"

#include "tls_stream.hh"

namespace psp::keyx {

// Swap is what they have in common: rx-assoc, send our key, read the peer's, tx-assoc.
class Swap : public Upgrade {
 public:
  Step step() final;
  bool done() const final { return stage_ == Stage::kDone; }
  const char* waiting_for() const final;

 protected:
  enum class Stage { kBegin, kSend, kRead, kTxAssoc, kSendError, kDone, kFailed };
  struct Peer {
    Version version;
    KeyInfo tx;
  };

  Swap(PspOps& ops, const Policy& policy) : policy_(policy), ops_(ops) {}

  // The parts that differ. send and read return kDone when all is through.
  virtual std::optional<Error> unfit() const = 0;
  virtual int fd() const = 0;
  virtual SSL* ssl() const = 0;  // null: none
  virtual void queue_key(KeyInfo rx) = 0;
  virtual bool queue_error() = 0;  // false: the protocol has no words for it
  virtual TlsStream::Io send() = 0;
  virtual TlsStream::Io receive() = 0;
  virtual std::expected<Peer, Error> take_peer() = 0;
  // drain is asked when tx-assoc is busy; `size` > 0: something was taken off, try at once.
  virtual TlsStream::Io drain() = 0;
  virtual void finish() = 0;

  Policy policy_;
  Version version_ = Version::kAesGcm128;

 private:
  Step run_stages();
  Step run_stage();
  Step begin();
  Step read_peer();
  Step install_tx();
  Step settle(TlsStream::Io io, Stage next);
  Step fail(Error error);

  PspOps& ops_;
  Stage stage_ = Stage::kBegin;
  unsigned tx_tries_ = 0;
  KeyInfo tx_;
};

// FizzV0 is fizz's PSP upgrade protocol V0: inside TLS each side sends one message (message.hh) and
// then speaks PSP. The SA is the last that a side sends through TLS.
class FizzV0 final : public Swap {
 public:
  FizzV0(SSL* ssl, PspOps& ops, const Policy& policy) : Swap(ops, policy), tls_(ssl) {}

 private:
  std::optional<Error> unfit() const override;
  int fd() const override { return tls_.fd(); }
  SSL* ssl() const override { return tls_.ssl(); }
  void queue_key(KeyInfo rx) override;
  bool queue_error() override;
  TlsStream::Io send() override;
  TlsStream::Io receive() override;
  std::expected<Peer, Error> take_peer() override;
  TlsStream::Io drain() override { return tls_.drain(); }
  void finish() override { tls_.retire(); }

  TlsStream tls_;
  bool key_queued_ = false;
  crypto::Secret<kFizzMax> in_;
};

// KernelSelftest is what Linux's selftest responder (psp_responder) and its counterpart do on the
// data socket, IN CLEAR: each side sends its SPI, 4 octets in HOST order, and the raw key, 16 or 32
// octets by version; both know the version beforehand.
class KernelSelftest final : public Swap {
 public:
  KernelSelftest(int fd, PspOps& ops, const Policy& policy) : Swap(ops, policy), fd_(fd) {}

 private:
  std::optional<Error> unfit() const override;
  int fd() const override { return fd_; }
  SSL* ssl() const override { return nullptr; }
  void queue_key(KeyInfo rx) override;
  bool queue_error() override { return false; }
  TlsStream::Io send() override;
  TlsStream::Io receive() override;
  std::expected<Peer, Error> take_peer() override;
  TlsStream::Io drain() override { return {}; }
  void finish() override {}

  int fd_;
  std::size_t done_ = 0;
  crypto::Secret<36> out_, in_;
};

}  // namespace psp::keyx
