// SPDX-License-Identifier: Apache-2.0
//
// TLS 1.3 contexts that are fit for the key exchange, from certificate files, a pre-shared key or
// nothing at all, and the handshake with errors that people understand. For programs that have no
// TLS of their own (psp-cat, psp-proxy, examples); an upgrade takes any SSL that is fit. Who has
// verified nobody is told so: first use is encrypted and no more.
//
// Threading: a context may be shared once it is made, a connection has one user at a time.
#pragma once

#include <expected>
#include <memory>
#include <openssl/ssl.h>
#include <string>
#include <vector>

#include "crypto/secret.hh"
#include "keyx/upgrade.hh"

namespace psp::keyx {

struct SslDeleter {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
};
struct SslCtxDeleter {
  void operator()(SSL_CTX* ctx) const { SSL_CTX_free(ctx); }
};
using SslPtr = std::unique_ptr<SSL, SslDeleter>;
using SslCtxPtr = std::unique_ptr<SSL_CTX, SslCtxDeleter>;

// BoundedReads is how often `ssl` (null: none) may read from its socket while this lives. OpenSSL
// goes round inside a call for as long as records come that hold no data (KeyUpdates, tickets,
// HelloRequests), and a peer can send those without end: every call that may read stands in one.
// When the reads are used up OpenSSL says SSL_ERROR_WANT_READ, though the socket may have more.
// The SSL keeps its BIO for reading meanwhile; its modes and callbacks are as before afterwards.
class BoundedReads {
 public:
  explicit BoundedReads(SSL* ssl);
  ~BoundedReads();
  BoundedReads(const BoundedReads&) = delete;
  BoundedReads& operator=(const BoundedReads&) = delete;
  // used_up tells whether a read was refused.
  bool used_up() const { return used_up_; }

 private:
  static constexpr unsigned kReads = 128;  // a record takes two: 1 MiB of full records
  static long on_bio(BIO* bio, int what, const char* octets, std::size_t size, int argi, long argl,
                     int result, std::size_t* processed);

  BIO* bio_;
  BIO_callback_fn_ex theirs_ = nullptr;
  char* their_arg_ = nullptr;
  unsigned left_ = kReads;
  bool used_up_ = false;
};

// wipe_what_openssl_frees makes OpenSSL wipe all memory of this process that it gives back: of
// itself it frees an SSL with the traffic secrets and the exporter secret in it, and with those
// whoever has recorded the connection reads its KEY messages. For programs, at the beginning of
// main; false: OpenSSL has memory already.
bool wipe_what_openssl_frees();

// TlsOptions says who we are and whom we believe. Exactly one of: first_use; psk_file;
// certificates.
struct TlsOptions {
  bool server = false;
  std::string cert_file = {};  // PEM chain; a server with certificates needs it
  std::string key_file = {};   // PEM
  // PEM; whom we believe: a client with certificates needs it, and a server that has it demands a
  // certificate of every peer.
  std::string ca_file = {};
  std::string psk_file = {};  // hex, base64 or at least 16 raw octets
  // first_use makes a certificate that lives as long as the context and believes every peer. Such a
  // connection is encrypted, but NOT authenticated unless somebody compares the fingerprints.
  bool first_use = false;
};

enum class TlsMode { kCertificates, kPsk, kFirstUse };

struct TlsContext {
  SslCtxPtr ctx;
  TlsMode mode = TlsMode::kCertificates;
  bool server = false;
  std::string own_fingerprint;        // of our certificate; empty if we have none
  std::vector<std::string> warnings;  // sentences: for example a key file that others can read
};

// make_context builds a context with TLS 1.3 only, no session tickets, no read-ahead.
// Errors: kUsage, with the file and what is wrong with it.
std::expected<TlsContext, Error> make_context(const TlsOptions& options);

// check_peer_name is an error text, the end of a sentence, unless `name` is the name of one host:
// OpenSSL takes a leading dot for every name of a domain.
std::expected<void, std::string> check_peer_name(const std::string& name);

// certificate_names tells whether the subjectAltName of a certificate has exactly `name`, a host
// name or an address. Wild cards do not count, nor does the subject.
bool certificate_names(X509* certificate, const std::string& name);

// make_connection puts TLS on the connected socket `fd`, which stays the caller's. A client with
// certificates will accept only one whose subjectAltName has `peer_name` (a host name or an
// address). As RFC 9525 has it, "*" there stands for one whole label, the leftmost, and the subject
// for nothing.
std::expected<SslPtr, Error> make_connection(const TlsContext& context, int fd,
                                             const std::string& peer_name);

// handshake goes on with the handshake: kDone, kWantRead or kWantWrite. However much the peer
// sends, it comes back: with kWantRead, though the socket may be readable still. Errors:
// kAuthentication, kPeerClosed, kIo, kProtocol.
std::expected<Step, Error> handshake(const TlsContext& context, SSL* ssl);

// peer_fingerprint is the SHA-256 of the peer's certificate as "AB:CD:...", empty if it sent none.
std::string peer_fingerprint(SSL* ssl);

// peer_authenticated tells whether the handshake proved who the peer is.
bool peer_authenticated(const TlsContext& context, SSL* ssl);

using Psk = crypto::Secret<512>;

// decode_psk reads what a PSK file holds: 32 or more hex digits, else base64 of 16 or more octets,
// else 16 or more raw octets (line ends at the end do not count).
std::expected<Psk, std::string> decode_psk(std::span<const std::uint8_t> content);

// tls_error puts OpenSSL's error queue, which it empties, into one sentence: `doing`, then why.
// `result` is what SSL_get_error said.
Error tls_error(SSL* ssl, int result, int sys_errno, const std::string& doing);

}  // namespace psp::keyx
