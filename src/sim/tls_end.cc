// SPDX-License-Identifier: Apache-2.0
//
// Handshake, early octets, exchange: the order in which psp-cat does it. The contexts are made
// once, of one pre-shared key, by the product's own code, which reads it from a file: one in
// memory.
//
// A pre-shared key, since a certificate has times that the clock would be asked for, and its making
// and checking cost more than a run should. A context keeps nothing of its connections: no tickets,
// no cache.
#include "tls_end.hh"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fmt/format.h>
#include <openssl/err.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#include "content.hh"

namespace psp::sim {
namespace {

keyx::TlsContext make_context(bool server) {
  constexpr char kKey[] = "the pre-shared key of both applications";
  const int fd = memfd_create("psk", MFD_CLOEXEC);
  const bool written = write(fd, kKey, sizeof kKey - 1) == sizeof kKey - 1;
  auto context =
      keyx::make_context({.server = server, .psk_file = fmt::format("/proc/self/fd/{}", fd)});
  close(fd);
  if (!written || !context) {
    std::fprintf(stderr, "no TLS: %s\n", written ? context.error().message.c_str() : "no memory");
    std::abort();
  }
  return std::move(*context);
}

const keyx::TlsContext& context_of(bool server) {
  static const std::array contexts = {make_context(false), make_context(true)};
  return contexts[server];
}

}  // namespace

TlsEnd::TlsEnd(std::unique_ptr<AppSocket> socket, bool server, const keyx::Policy& policy,
               const Early& early, Requests requests)
    : socket_(std::move(socket)),
      context_(context_of(server)),
      policy_(policy),
      early_(early),
      requests_(std::move(requests)),
      ssl_(SSL_new(context_.ctx.get())) {
  BIO* const bio = socket_->bio();
  SSL_set_bio(ssl_.get(), bio, bio);
  server ? SSL_set_accept_state(ssl_.get()) : SSL_set_connect_state(ssl_.get());
}

// Nobody is inside: at the end of a run the host may have gone before, and no call reaches it.
TlsEnd::~TlsEnd() = default;

keyx::Step TlsEnd::step() {
  if (done_) return keyx::Step::kDone;
  if (failed_) return keyx::Step::kFailed;
  const AppSocket::Inside inside(*socket_);
  return run();
}

keyx::Step TlsEnd::run() {
  if (!shaken_) {
    const auto step = keyx::handshake(context_, ssl_.get());
    if (!step) return fail(step.error());
    if (*step != keyx::Step::kDone) return *step;
    shaken_ = true;
  }
  if (early_sent_ < early_.size)
    if (const keyx::Step step = send_early(); step != keyx::Step::kDone) return step;
  if (!exchange_) exchange_ = std::make_unique<keyx::Exchange>(ssl_.get(), *this, policy_);
  for (;;) {
    const keyx::Step step = exchange_->step();
    take_early();
    if (step == keyx::Step::kWantDrain) continue;
    done_ = step == keyx::Step::kDone;
    return step == keyx::Step::kFailed ? fail(exchange_->error()) : step;
  }
}

keyx::Step TlsEnd::send_early() {
  while (early_sent_ < early_.size) {
    std::vector<std::uint8_t> octets(early_.size - early_sent_);
    write_content(early_.stream, static_cast<std::uint32_t>(early_sent_), octets);
    std::size_t sent = 0;
    ERR_clear_error();
    errno = 0;
    if (SSL_write_ex(ssl_.get(), octets.data(), octets.size(), &sent) != 1) {
      const int sys_errno = errno;
      const int result = SSL_get_error(ssl_.get(), 0);
      if (result == SSL_ERROR_WANT_WRITE) return keyx::Step::kWantWrite;
      return fail(keyx::tls_error(ssl_.get(), result, sys_errno, "sending inside TLS"));
    }
    early_sent_ += sent;
  }
  return keyx::Step::kDone;
}

keyx::Step TlsEnd::fail(keyx::Error error) {
  error_ = std::move(error);
  failed_ = true;
  return keyx::Step::kFailed;
}

void TlsEnd::take_early() {
  std::vector<std::uint8_t> octets(exchange_->pending());
  octets.resize(exchange_->read(octets));
  early_wrong_ |= !is_content(early_.peer_stream, static_cast<std::uint32_t>(early_read_), octets);
  early_read_ += octets.size();
}

keyx::Availability TlsEnd::available(int /*fd*/) { return requests_.available(); }

ClientResult<RxAssocInfo> TlsEnd::rx_assoc(int /*fd*/, Version version) {
  return requests_.rx_assoc(version);
}

ClientResult<void> TlsEnd::tx_assoc(int /*fd*/, Version version, const KeyInfo& tx) {
  return requests_.tx_assoc(version, tx);
}

}  // namespace psp::sim
