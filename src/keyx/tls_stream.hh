// SPDX-License-Identifier: Apache-2.0
//
// TlsStream is the TLS connection under an upgrade: is it fit, write through it, read from it, and
// at last make sure that nothing can leave through it any more. One clear octet behind our KEY
// would hang the connection for good, since the peer must drop it (docs/protocol.md, section 7,
// rule 1). The SSL is borrowed: its settings are put back, whatever happens. For Exchange and
// FizzV0.
#pragma once

#include <fcntl.h>
#include <span>
#include <string>

#include "crypto/secret.hh"
#include "keyx/tls.hh"
#include "keyx/upgrade.hh"

namespace psp::keyx {

// bounded_step is `run`, which takes a step as far as it can without waiting, within BoundedReads.
// On a blocking socket it goes on: its user has chosen to wait for the peer, however long.
template <typename Run>
Step bounded_step(SSL* ssl, Run&& run) {
  for (;;) {
    const BoundedReads bound(ssl);
    const Step step = run();
    if (step != Step::kWantRead || !bound.used_up()) return step;
    if ((fcntl(SSL_get_fd(ssl), F_GETFL) & O_NONBLOCK) != 0) return Step::kWantRetry;
  }
}

class TlsStream {
 public:
  explicit TlsStream(SSL* ssl);
  ~TlsStream();  // the SSL's settings are as before; what is closed stays closed
  TlsStream(const TlsStream&) = delete;
  TlsStream& operator=(const TlsStream&) = delete;

  // Io is how a step of I/O ended: kDone with `size` octets, a kWant*, or kFailed with `error`.
  struct Io {
    Step step = Step::kDone;
    std::size_t size = 0;
    Error error = {};
  };

  // unfit says why this SSL cannot be upgraded, if it cannot.
  std::optional<Error> unfit() const;
  int fd() const { return fd_; }
  bool server() const { return SSL_is_server(ssl_) == 1; }
  SSL* ssl() const { return ssl_; }

  // queue puts octets behind those that wait to be written (at most kOutMax); flush writes them.
  void queue(std::span<const std::uint8_t> octets);
  Io flush();
  // read gives up to to.size() octets. `doing` names it in errors: "waiting for the peer's offer".
  Io read(std::span<std::uint8_t> to, const std::string& doing);
  // unread tells whether the SSL holds octets behind those that were read.
  bool unread() const { return SSL_pending(ssl_) != 0 || SSL_has_pending(ssl_) != 0; }

  // close_out keeps everything that the SSL would still send (an answer to a KeyUpdate, alerts, a
  // close_notify) from the socket. reopen_out undoes it; false: something was held back, and the
  // SSL cannot be used any more.
  void close_out();
  bool reopen_out();
  // drain takes TLS records off the socket that came behind the last message: alerts and tickets do
  // no harm while they can be read. kDone: `size` octets of ciphertext were taken. kFailed: it was
  // application data, or it did not authenticate.
  Io drain();
  // retire makes the SSL useless: it has done its part.
  void retire();

 private:
  Io drain_records();
  Io failure(int result, int sys_errno, const std::string& doing);

  static constexpr std::size_t kOutMax = 2048;
  SSL* ssl_;
  int fd_;
  std::uint64_t options_, modes_;
  int read_ahead_;
  int quiet_shutdown_;
  std::optional<int> nodelay_;   // as it was, where it was changed
  BIO* socket_bio_ = nullptr;    // while the way out is closed; owned
  bool closed_by_peer_ = false;  // its close_notify was drained
  crypto::Secret<kOutMax> out_;
  std::size_t out_done_ = 0;
};

}  // namespace psp::keyx
