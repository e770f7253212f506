// SPDX-License-Identifier: Apache-2.0
//
// TlsEnd: one end that is secured by libpsp-tls, as an application would: a TLS 1.3 handshake with
// a pre-shared key, a few octets inside TLS, then the key exchange. All of it is real, over a
// modelled socket (app_socket.hh); what it asks of pspd goes to Requests.
#pragma once

#include <memory>

#include "keyx/exchange.hh"
#include "keyx/tls.hh"

#include "app_socket.hh"

namespace psp::sim {

// Requests are what an exchange asks pspd for, for one end.
struct Requests {
  std::function<keyx::Availability()> available;
  std::function<ClientResult<RxAssocInfo>(Version)> rx_assoc;
  std::function<ClientResult<void>(Version, const KeyInfo&)> tx_assoc;
};

class TlsEnd final : public keyx::PspOps {
 public:
  // Early are the octets that the applications of both ends send inside TLS before the exchange:
  // the content of these streams.
  struct Early {
    std::uint64_t stream = 0, peer_stream = 0;
    std::size_t size = 0;
  };

  TlsEnd(std::unique_ptr<AppSocket> socket, bool server, const keyx::Policy& policy,
         const Early& early, Requests requests);
  ~TlsEnd() override;

  // step goes on as far as the socket lets it. Done and failed are for good.
  keyx::Step step();
  bool over() const { return done_ || failed_; }
  bool done() const { return done_; }
  const keyx::Outcome& outcome() const { return exchange_->outcome(); }  // when done
  const keyx::Error& error() const { return error_; }                    // when failed
  const keyx::Policy& policy() const { return policy_; }
  std::size_t early_size() const { return early_.size; }
  // early_read is how many of the peer's have come; wrong: one that it has not sent.
  std::size_t early_read() const { return early_read_; }
  bool early_wrong() const { return early_wrong_; }

  // PspOps; the addresses are asked of the socket, as ever.
  keyx::Availability available(int fd) override;
  ClientResult<RxAssocInfo> rx_assoc(int fd, Version version) override;
  ClientResult<void> tx_assoc(int fd, Version version, const KeyInfo& tx) override;

 private:
  keyx::Step run();
  keyx::Step send_early();
  keyx::Step fail(keyx::Error error);
  void take_early();

  std::unique_ptr<AppSocket> socket_;
  const keyx::TlsContext& context_;
  const keyx::Policy policy_;
  const Early early_;
  Requests requests_;
  keyx::SslPtr ssl_;
  std::unique_ptr<keyx::Exchange> exchange_;
  keyx::Error error_;
  std::size_t early_sent_ = 0, early_read_ = 0;
  bool shaken_ = false, done_ = false, failed_ = false, early_wrong_ = false;
};

}  // namespace psp::sim
