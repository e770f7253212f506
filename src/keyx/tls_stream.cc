// SPDX-License-Identifier: Apache-2.0
//
// I/O of an upgrade through OpenSSL. What needs care: octets of the PSP stream may stand directly
// behind the last TLS record, so no more than whole records are ever read from the socket; and
// behind our last message not one octet of TLS may leave, whatever OpenSSL would like to say.
#include "tls_stream.hh"

#include <array>
#include <cerrno>
#include <cstring>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/socket_options.hh"

namespace psp::keyx {
namespace {

// A TLS record begins with type, 0x0303, length of what follows (2 octets).
constexpr std::size_t kRecordHeader = 5;
constexpr unsigned kDrainMax = 16;

bool looks_like_tls(const std::uint8_t (&header)[kRecordHeader]) {
  return header[0] >= SSL3_RT_ALERT && header[0] <= SSL3_RT_APPLICATION_DATA && header[1] == 3 &&
         header[2] == 3;
}

int unread_octets(int fd) {
  int n = 0;
  return ioctl(fd, FIONREAD, &n) == 0 ? n : 0;
}

bool is_socket_bio(BIO* bio) {
  return bio != nullptr && BIO_method_type(bio) == BIO_TYPE_SOCKET && BIO_next(bio) == nullptr;
}

// The kernel has taken TLS over if an upper layer protocol sits on the socket.
bool has_upper_layer(int fd) {
  const auto name = get_option<std::array<char, 16>>(fd, IPPROTO_TCP, TCP_ULP);
  return name && name->front() != '\0';
}

}  // namespace

TlsStream::TlsStream(SSL* ssl)
    : ssl_(ssl),
      fd_(SSL_get_fd(ssl)),
      options_(SSL_get_options(ssl)),
      modes_(static_cast<std::uint64_t>(SSL_get_mode(ssl))),
      read_ahead_(SSL_get_read_ahead(ssl)),
      quiet_shutdown_(SSL_get_quiet_shutdown(ssl)) {
  // Read-ahead could take octets of the PSP stream into the TLS library. Without "moving write
  // buffer" OpenSSL notices if a write of the application is unfinished.
  SSL_set_read_ahead(ssl_, 0);
  // Records are decrypted in place, in a buffer that is freed as it is: with the peer's key in it.
  SSL_set_options(ssl_, SSL_OP_CLEANSE_PLAINTEXT);
  SSL_clear_mode(ssl_, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_set_mode(ssl_, SSL_MODE_ENABLE_PARTIAL_WRITE);
  // Small messages go back and forth: none must wait for an acknowledgement.
  if (fd_ >= 0 && get_option<int>(fd_, IPPROTO_TCP, TCP_NODELAY) == 0 &&
      set_option(fd_, IPPROTO_TCP, TCP_NODELAY, 1))
    nodelay_ = 0;
}

TlsStream::~TlsStream() {
  SSL_set_read_ahead(ssl_, read_ahead_);
  SSL_clear_options(ssl_, SSL_OP_CLEANSE_PLAINTEXT & ~options_);
  SSL_clear_mode(ssl_, SSL_get_mode(ssl_));
  SSL_set_mode(ssl_, static_cast<long>(modes_));
  if (socket_bio_ != nullptr)
    BIO_free(socket_bio_);
  else
    SSL_set_quiet_shutdown(ssl_, quiet_shutdown_);
  if (nodelay_) (void)set_option(fd_, IPPROTO_TCP, TCP_NODELAY, *nodelay_);
}

std::optional<Error> TlsStream::unfit() const {
  const auto usage = [](const char* text) { return Error{ErrorCode::kUsage, EINVAL, text}; };
  if (SSL_version(ssl_) != TLS1_3_VERSION)
    return usage("the PSP upgrade needs TLS 1.3: its exporter binds PSP to the session");
  if (!SSL_is_init_finished(ssl_)) return usage("the TLS handshake is not finished");
  BIO* const in = SSL_get_rbio(ssl_);
  BIO* const out = SSL_get_wbio(ssl_);
  if (!is_socket_bio(in) || !is_socket_bio(out) || fd_ < 0 || SSL_get_wfd(ssl_) != fd_)
    return usage(
        "the PSP upgrade needs TLS directly on one socket (SSL_set_fd); this SSL reads or writes "
        "through another kind of BIO, which may hold octets that are not ours");
  if (BIO_get_ktls_send(out) || BIO_get_ktls_recv(in) || has_upper_layer(fd_))
    return usage(
        "the kernel does TLS on this socket (kTLS), which cannot be taken off again: clear "
        "SSL_OP_ENABLE_KTLS");
  if (SSL_want_write(ssl_)) return usage("an SSL_write is unfinished: complete it first");
  if ((SSL_get_shutdown(ssl_) & SSL_SENT_SHUTDOWN) != 0)
    return usage("SSL_shutdown was called already");
  return std::nullopt;
}

void TlsStream::queue(std::span<const std::uint8_t> octets) {
  const std::size_t at = out_.size();
  out_.resize(at + octets.size());
  if (!octets.empty()) std::memcpy(out_.data() + at, octets.data(), out_.size() - at);
}

TlsStream::Io TlsStream::flush() {
  while (out_done_ < out_.size()) {
    std::size_t written = 0;
    ERR_clear_error();
    errno = 0;
    if (SSL_write_ex(ssl_, out_.data() + out_done_, out_.size() - out_done_, &written) == 1) {
      out_done_ += written;
      continue;
    }
    const int sys_errno = errno;
    const int result = SSL_get_error(ssl_, 0);
    const int reason = ERR_GET_REASON(ERR_peek_error());
    if (reason == SSL_R_BAD_WRITE_RETRY || reason == SSL_R_BAD_LENGTH)
      return {Step::kFailed,
              0,
              {ErrorCode::kUsage, EINVAL, "an SSL_write is unfinished: complete it first"}};
    return failure(result, sys_errno, "sending the key exchange");
  }
  out_.wipe();
  out_done_ = 0;
  return {};
}

TlsStream::Io TlsStream::read(std::span<std::uint8_t> to, const std::string& doing) {
  std::size_t got = 0;
  ERR_clear_error();
  errno = 0;
  if (SSL_read_ex(ssl_, to.data(), to.size(), &got) == 1) return {Step::kDone, got, {}};
  const int sys_errno = errno;
  return failure(SSL_get_error(ssl_, 0), sys_errno, doing);
}

TlsStream::Io TlsStream::failure(int result, int sys_errno, const std::string& doing) {
  if (result == SSL_ERROR_WANT_READ) return {Step::kWantRead, 0, {}};
  if (result == SSL_ERROR_WANT_WRITE) return {Step::kWantWrite, 0, {}};
  return {Step::kFailed, 0, tls_error(ssl_, result, sys_errno, doing)};
}

void TlsStream::close_out() {
  if (socket_bio_ != nullptr) return;
  SSL_set_quiet_shutdown(ssl_, 1);
  BIO* const sink = BIO_new(BIO_s_null());  // keeps nothing, however often a peer wants an answer
  if (sink == nullptr) return;              // quiet shutdown and our own silence have to do
  socket_bio_ = SSL_get_wbio(ssl_);
  BIO_up_ref(socket_bio_);
  SSL_set0_wbio(ssl_, sink);
}

bool TlsStream::reopen_out() {
  SSL_set_quiet_shutdown(ssl_, quiet_shutdown_);
  if (socket_bio_ == nullptr) return true;
  const bool held = BIO_number_written(SSL_get_wbio(ssl_)) != 0;
  if (held) return false;
  SSL_set0_wbio(ssl_, socket_bio_);
  socket_bio_ = nullptr;
  return true;
}

TlsStream::Io TlsStream::drain() {
  const int before = unread_octets(fd_);
  // A ticket is no reason to wait for what comes behind it.
  const auto auto_retry = SSL_get_mode(ssl_) & SSL_MODE_AUTO_RETRY;
  SSL_clear_mode(ssl_, SSL_MODE_AUTO_RETRY);
  Io io = drain_records();
  SSL_set_mode(ssl_, auto_retry);
  if (io.step != Step::kDone) return io;
  const int taken = before - unread_octets(fd_);
  return {Step::kDone, static_cast<std::size_t>(taken > 0 ? taken : 0), {}};
}

TlsStream::Io TlsStream::drain_records() {
  for (unsigned i = 0; i < kDrainMax; ++i) {
    std::uint8_t header[kRecordHeader];
    const ssize_t n = recv(fd_, header, sizeof header, MSG_PEEK | MSG_DONTWAIT);
    if (n != static_cast<ssize_t>(sizeof header) || !looks_like_tls(header)) break;
    // Half a record would leave the queue without having been authenticated.
    const int size = static_cast<int>(kRecordHeader) + header[3] * 256 + header[4];
    if (SSL_has_pending(ssl_) != 0 || unread_octets(fd_) < size) break;
    if (closed_by_peer_)
      return {Step::kFailed, 0, {ErrorCode::kClearData, 0, "more came behind its close_notify"}};
    std::uint8_t octet = 0;
    Io io = read({&octet, 1}, "reading what came behind the peer's key");
    octet = 0;
    if (io.step == Step::kDone)
      return {Step::kFailed,
              0,
              {ErrorCode::kClearData, 0,
               "the peer sent more inside TLS after its key, which must be its last; its software "
               "is faulty"}};
    closed_by_peer_ = (SSL_get_shutdown(ssl_) & SSL_RECEIVED_SHUTDOWN) != 0;
    if (io.step == Step::kFailed && !closed_by_peer_) return io;
  }
  return {};
}

void TlsStream::retire() {
  close_out();
  SSL_set_shutdown(ssl_, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
  if (nodelay_) (void)set_option(fd_, IPPROTO_TCP, TCP_NODELAY, *nodelay_);
  nodelay_.reset();
}

}  // namespace psp::keyx
