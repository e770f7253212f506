// SPDX-License-Identifier: Apache-2.0
//
// One buffer for each direction, written out before it is filled again. OpenSSL says which way the
// socket blocks, whatever was asked of it: reading may wait for writing. The end of a stream is
// passed on by itself, so that the other direction goes on; an end of TCP without one of TLS is an
// error, because octets may be missing.
#include "tls_relay.hh"

#include <algorithm>
#include <cerrno>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <sys/socket.h>

namespace psp::proxy {

TlsRelay::TlsRelay(Socket& clear, Socket& peer, keyx::SslPtr ssl,
                   std::span<const std::uint8_t> early)
    : clear_(clear), peer_(peer), ssl_(std::move(ssl)) {
  std::ranges::copy(early, inward_.octets.begin());
  inward_.filled(early.size());
}

TlsRelay::~TlsRelay() {
  // What goes through here is meant for nobody else.
  OPENSSL_cleanse(outward_.octets.data(), outward_.octets.size());
  OPENSSL_cleanse(inward_.octets.data(), inward_.octets.size());
}

TlsRelay::Io TlsRelay::broke(bool by_peer, int error) {
  broken_ = {.by_peer = by_peer, .error = error};
  return Io::kBroken;
}

TlsRelay::Io TlsRelay::tls_result(int result) {
  const int error = errno;
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ:
      peer_.readable = false;
      return Io::kBlocked;
    case SSL_ERROR_WANT_WRITE:
      peer_.writable = false;
      return Io::kBlocked;
    case SSL_ERROR_ZERO_RETURN:
      return Io::kEnded;
    case SSL_ERROR_SYSCALL:
      return broke(true, error);
    default:  // for example the end of TCP without the end of TLS: octets may be missing
      return broke(true, ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING
                             ? 0
                             : EPROTO);
  }
}

TlsRelay::Io TlsRelay::read_clear() {
  if (!clear_.readable) return Io::kBlocked;
  const ssize_t n = recv(clear_.fd.get(), outward_.octets.data(), outward_.octets.size(), 0);
  if (n > 0) {
    outward_.filled(static_cast<std::size_t>(n));
    return Io::kMoved;
  }
  if (n < 0 && errno != EAGAIN) return broke(false, errno);
  (n == 0 ? clear_ended_ : clear_.readable) = n == 0;
  return n == 0 ? Io::kMoved : Io::kBlocked;
}

TlsRelay::Io TlsRelay::write_clear() {
  if (!clear_.writable) return Io::kBlocked;
  const ssize_t n = send(clear_.fd.get(), inward_.octets.data() + inward_.begin,
                         inward_.end - inward_.begin, MSG_NOSIGNAL);
  if (n < 0 && errno != EAGAIN) return broke(false, errno);
  if (n < 0) {
    clear_.writable = false;
    return Io::kBlocked;
  }
  inward_.begin += static_cast<std::size_t>(n);
  from_peer_ += static_cast<std::uint64_t>(n);
  return Io::kMoved;
}

TlsRelay::Io TlsRelay::read_peer() {
  std::size_t n = 0;
  ERR_clear_error();
  errno = 0;
  const int done = SSL_read_ex(ssl_.get(), inward_.octets.data(), inward_.octets.size(), &n);
  if (done == 1) {
    inward_.filled(n);
    return Io::kMoved;
  }
  const Io io = tls_result(done);
  if (io != Io::kEnded) return io;
  peer_ended_ = true;
  return Io::kMoved;
}

TlsRelay::Io TlsRelay::write_peer() {
  std::size_t n = 0;
  ERR_clear_error();
  errno = 0;
  const int done = SSL_write_ex(ssl_.get(), outward_.octets.data() + outward_.begin,
                                outward_.end - outward_.begin, &n);
  if (done != 1) return tls_result(done);
  outward_.begin += n;
  to_peer_ += n;
  return Io::kMoved;
}

TlsRelay::Io TlsRelay::end_peer() {
  ERR_clear_error();
  errno = 0;
  const int done = SSL_shutdown(ssl_.get());
  if (done < 0) {
    // Waiting to read means that ours is sent: the peer's end comes when it comes.
    const Io io = tls_result(done);
    if (io == Io::kBroken || !peer_.writable) return io;
  }
  outward_done_ = true;
  return Io::kMoved;
}

TlsRelay::Io TlsRelay::step_outward() {
  if (outward_done_) return Io::kEnded;
  if (!outward_.empty()) return write_peer();
  return clear_ended_ ? end_peer() : read_clear();
}

TlsRelay::Io TlsRelay::step_inward() {
  if (inward_done_) return Io::kEnded;
  if (!inward_.empty()) return write_clear();
  if (!peer_ended_) return read_peer();
  inward_done_ = true;
  return shutdown(clear_.fd.get(), SHUT_WR) == 0 ? Io::kEnded : broke(false, errno);
}

Relay::State TlsRelay::turn() {
  const keyx::BoundedReads bound(ssl_.get());
  const std::uint64_t share_end = to_peer_ + from_peer_ + kShare;
  for (;;) {
    const Io out = step_outward();
    if (out == Io::kBroken) return State::kBroken;
    const Io in = step_inward();
    if (in == Io::kBroken) return State::kBroken;
    if (outward_done_ && inward_done_) return State::kDone;
    if (out != Io::kMoved && in != Io::kMoved)
      return bound.used_up() ? State::kMore : State::kWaiting;
    if (to_peer_ + from_peer_ >= share_end) return State::kMore;
  }
}

}  // namespace psp::proxy
