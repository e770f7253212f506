// SPDX-License-Identifier: Apache-2.0
//
// TLS contexts for the key exchange: certificate files, a pre-shared key, or a certificate that is
// made on the spot. Whatever the mode: TLS 1.3 only, no session ticket (it would be a clear octet
// in the wrong place), no read-ahead (it could swallow the PSP stream).
#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include "keyx/tls.hh"

namespace psp::keyx {
namespace {

constexpr unsigned char kPskIdentity[] = "softpsp";
constexpr std::size_t kPskMin = 16;
constexpr unsigned char kSuiteAes128GcmSha256[] = {0x13, 0x01};  // the PSK's hash is its SHA-256

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* p) const {
    Free(p);
  }
};
using PkeyPtr = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY_free>>;
using X509Ptr = std::unique_ptr<X509, Deleter<X509_free>>;
using SessionPtr = std::unique_ptr<SSL_SESSION, Deleter<SSL_SESSION_free>>;

// last_reason is what OpenSSL's error queue says, in words: the system's error, if one is there
// ("No such file or directory"; what comes after it says no more than that it came from the
// system), else the newest entry.
std::string last_reason() {
  unsigned long code = 0;
  while (const unsigned long next = ERR_get_error()) {
    code = next;
    if (ERR_SYSTEM_ERROR(code)) break;
  }
  ERR_clear_error();
  if (ERR_SYSTEM_ERROR(code)) return std::strerror(ERR_GET_REASON(code));
  const char* reason = ERR_reason_error_string(code);
  return reason != nullptr ? reason : "no reason given";
}

std::unexpected<Error> usage(std::string message) {
  return std::unexpected(Error{ErrorCode::kUsage, 0, std::move(message)});
}

void warn_if_readable(const std::string& file, std::vector<std::string>& warnings) {
  struct stat st {};
  if (stat(file.c_str(), &st) == 0 && (st.st_mode & (S_IRGRP | S_IROTH | S_IWGRP | S_IWOTH)) != 0)
    warnings.push_back(
        fmt::format("{} is a secret, but its mode {:03o} lets others at it: chmod 600 {}", file,
                    st.st_mode & 0777, file));
}

std::string fingerprint(const X509* certificate) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  if (X509_digest(certificate, EVP_sha256(), digest, &size) != 1) return {};
  std::string out;
  for (unsigned i = 0; i < size; ++i) out += fmt::format("{}{:02X}", i == 0 ? "" : ":", digest[i]);
  return out;
}

// The PSK hangs on its context and is wiped with it.
void free_psk(void*, void* ptr, CRYPTO_EX_DATA*, int, long, void*) {
  std::unique_ptr<Psk>(static_cast<Psk*>(ptr)).reset();
}

int psk_index() {
  static const int index =
      CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL_CTX, 0, nullptr, nullptr, nullptr, free_psk);
  return index;
}

SessionPtr psk_session(SSL* ssl) {
  const auto* psk = static_cast<const Psk*>(SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), psk_index()));
  const SSL_CIPHER* cipher = SSL_CIPHER_find(ssl, kSuiteAes128GcmSha256);
  SessionPtr session(SSL_SESSION_new());
  if (psk == nullptr || cipher == nullptr || !session ||
      SSL_SESSION_set1_master_key(session.get(), psk->data(), psk->size()) != 1 ||
      SSL_SESSION_set_cipher(session.get(), cipher) != 1 ||
      SSL_SESSION_set_protocol_version(session.get(), TLS1_3_VERSION) != 1)
    return nullptr;
  return session;
}

int on_client_psk(SSL* ssl, const EVP_MD* digest, const unsigned char** id, std::size_t* id_size,
                  SSL_SESSION** out) {
  *out = nullptr;
  // After a HelloRetryRequest with another hash our PSK does not fit; the handshake then fails.
  if (digest != nullptr && EVP_MD_get_type(digest) != NID_sha256) return 1;
  SessionPtr session = psk_session(ssl);
  if (!session) return 0;
  *id = kPskIdentity;
  *id_size = sizeof kPskIdentity - 1;
  *out = session.release();
  return 1;
}

int on_server_psk(SSL* ssl, const unsigned char* id, std::size_t id_size, SSL_SESSION** out) {
  *out = nullptr;
  if (id_size == sizeof kPskIdentity - 1 && std::memcmp(id, kPskIdentity, id_size) == 0)
    *out = psk_session(ssl).release();
  return 1;
}

bool is_address(const std::string& name) {
  in6_addr address;
  return inet_pton(AF_INET, name.c_str(), &address) == 1 ||
         inet_pton(AF_INET6, name.c_str(), &address) == 1;
}

int accept_any(int, X509_STORE_CTX*) { return 1; }

std::expected<void, Error> use_psk(TlsContext& context, const std::string& file) {
  const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return usage(fmt::format("cannot read the PSK file {}: {}", file, strerror(errno)));
  crypto::Secret<4096> content;
  content.resize(4096);
  std::size_t size = 0;
  ssize_t n = 0;
  while (size < content.size() && (n = read(fd, content.data() + size, content.size() - size)) > 0)
    size += static_cast<std::size_t>(n);
  const int error = errno;
  close(fd);
  if (n < 0) return usage(fmt::format("cannot read the PSK file {}: {}", file, strerror(error)));
  content.resize(size);
  auto psk = decode_psk(content.span());
  if (!psk) return usage(fmt::format("the PSK file {} {}", file, psk.error()));
  warn_if_readable(file, context.warnings);

  auto kept = std::make_unique<Psk>(std::move(*psk));
  SSL_CTX* ctx = context.ctx.get();
  if (SSL_CTX_set_ex_data(ctx, psk_index(), kept.get()) != 1) return usage("out of memory");
  [[maybe_unused]] const Psk* owned_by_ctx = kept.release();
  // OpenSSL's server wants one as soon as it verifies peers; its client must have none, as the PSK.
  if (context.server) SSL_CTX_set_session_id_context(ctx, kPskIdentity, sizeof kPskIdentity - 1);
  SSL_CTX_set_psk_use_session_callback(ctx, on_client_psk);
  SSL_CTX_set_psk_find_session_callback(ctx, on_server_psk);
  SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256");
  // Without the PSK a certificate would do, so believe none.
  SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  return {};
}

std::expected<void, Error> use_certificates(TlsContext& context, const TlsOptions& options) {
  SSL_CTX* ctx = context.ctx.get();
  if (options.cert_file.empty() != options.key_file.empty())
    return usage("a certificate needs its key and a key its certificate: give --cert and --key");
  if (options.server && options.cert_file.empty())
    return usage("a listener with certificates needs its own: give --cert and --key");
  if (!options.server && options.ca_file.empty())
    return usage("whom shall this end believe? Give --ca with the listener's authority");
  if (!options.cert_file.empty()) {
    if (SSL_CTX_use_certificate_chain_file(ctx, options.cert_file.c_str()) != 1)
      return usage(
          fmt::format("cannot use the certificate {}: {}", options.cert_file, last_reason()));
    if (SSL_CTX_use_PrivateKey_file(ctx, options.key_file.c_str(), SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(ctx) != 1)
      return usage(fmt::format("cannot use the key {} with the certificate {}: {}",
                               options.key_file, options.cert_file, last_reason()));
    warn_if_readable(options.key_file, context.warnings);
    context.own_fingerprint = fingerprint(SSL_CTX_get0_certificate(ctx));
  }
  if (!options.ca_file.empty() && SSL_CTX_load_verify_file(ctx, options.ca_file.c_str()) != 1)
    return usage(
        fmt::format("cannot use the authorities in {}: {}", options.ca_file, last_reason()));
  if (!options.server) {
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, nullptr);
  } else if (!options.ca_file.empty()) {
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
    SSL_CTX_set_client_CA_list(ctx, SSL_load_client_CA_file(options.ca_file.c_str()));
  }
  return {};
}

std::expected<void, Error> use_new_certificate(TlsContext& context) {
  constexpr long kDay = 24 * 60 * 60;
  const PkeyPtr key(EVP_EC_gen("P-256"));
  const X509Ptr certificate(X509_new());
  std::uint64_t serial = 0;
  if (!key || !certificate || getentropy(&serial, sizeof serial) != 0)
    return usage(fmt::format("cannot make a key: {}", last_reason()));
  X509* x = certificate.get();
  X509_NAME* name = X509_get_subject_name(x);
  // An hour back: the peer's clock may be behind, and nothing but the fingerprint counts anyway.
  const bool made = X509_set_version(x, X509_VERSION_3) == 1 &&
                    ASN1_INTEGER_set_uint64(X509_get_serialNumber(x), serial >> 1) == 1 &&
                    X509_gmtime_adj(X509_getm_notBefore(x), -3600) != nullptr &&
                    X509_gmtime_adj(X509_getm_notAfter(x), kDay) != nullptr &&
                    X509_NAME_add_entry_by_txt(
                        name, "CN", MBSTRING_ASC,
                        reinterpret_cast<const unsigned char*>("psp first use"), -1, -1, 0) == 1 &&
                    X509_set_issuer_name(x, name) == 1 && X509_set_pubkey(x, key.get()) == 1 &&
                    X509_sign(x, key.get(), EVP_sha256()) > 0 &&
                    SSL_CTX_use_certificate(context.ctx.get(), x) == 1 &&
                    SSL_CTX_use_PrivateKey(context.ctx.get(), key.get()) == 1;
  if (!made) return usage(fmt::format("cannot make a certificate: {}", last_reason()));
  context.own_fingerprint = fingerprint(x);
  SSL_CTX_set_verify(context.ctx.get(), SSL_VERIFY_PEER, accept_any);
  return {};
}

bool is_space(std::uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

int hex_digit(std::uint8_t c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::optional<Psk> from_hex(std::span<const std::uint8_t> text) {
  if (text.size() % 2 != 0 || text.size() / 2 < kPskMin || text.size() / 2 > 512 ||
      !std::all_of(text.begin(), text.end(), [](std::uint8_t c) { return hex_digit(c) >= 0; }))
    return std::nullopt;
  Psk out;
  out.resize(text.size() / 2);
  for (std::size_t i = 0; i < out.size(); ++i)
    out.data()[i] =
        static_cast<std::uint8_t>(hex_digit(text[2 * i]) << 4 | hex_digit(text[2 * i + 1]));
  return out;
}

std::optional<Psk> from_base64(std::span<const std::uint8_t> text) {
  const auto padding = static_cast<std::size_t>(std::count(text.begin(), text.end(), '='));
  const bool letters =
      std::all_of(text.begin(), text.end() - std::min<std::size_t>(2, text.size()),
                  [](std::uint8_t c) { return std::isalnum(c) || c == '+' || c == '/'; });
  if (text.size() % 4 != 0 || text.size() > 680 || padding > 2 || !letters) return std::nullopt;
  crypto::Secret<512> out;
  out.resize(512);
  const int n = EVP_DecodeBlock(out.data(), text.data(), static_cast<int>(text.size()));
  if (n < 0) return std::nullopt;
  out.resize(static_cast<std::size_t>(n) - padding);
  return out.size() >= kPskMin ? std::optional(std::move(out)) : std::nullopt;
}

}  // namespace

std::expected<Psk, std::string> decode_psk(std::span<const std::uint8_t> content) {
  std::span<const std::uint8_t> text = content;
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r'))
    text = text.first(text.size() - 1);
  std::span<const std::uint8_t> word = text;
  while (!word.empty() && is_space(word.back())) word = word.first(word.size() - 1);
  while (!word.empty() && is_space(word.front())) word = word.subspan(1);
  if (auto psk = from_hex(word)) return std::move(*psk);
  if (auto psk = from_base64(word)) return std::move(*psk);
  if (text.size() < kPskMin)
    return std::unexpected(
        fmt::format("holds {} octets, which is too short: make one with "
                    "\"umask 077; openssl rand -hex 32 > FILE\"",
                    text.size()));
  if (text.size() > 512) return std::unexpected(std::string("holds more than 512 octets"));
  return Psk(text);
}

std::expected<TlsContext, Error> make_context(const TlsOptions& options) {
  const bool certificates =
      !options.cert_file.empty() || !options.key_file.empty() || !options.ca_file.empty();
  if (certificates + !options.psk_file.empty() + options.first_use != 1)
    return usage("choose one: certificates (--cert, --key, --ca), --psk-file, or first use");
  ERR_clear_error();
  TlsContext context;
  context.server = options.server;
  context.ctx.reset(SSL_CTX_new(options.server ? TLS_server_method() : TLS_client_method()));
  SSL_CTX* ctx = context.ctx.get();
  if (ctx == nullptr) return usage(fmt::format("OpenSSL does not start: {}", last_reason()));
  SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
  SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET | SSL_OP_CLEANSE_PLAINTEXT);
  SSL_CTX_set_num_tickets(ctx, 0);
  SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_read_ahead(ctx, 0);
  SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  std::expected<void, Error> done;
  if (options.first_use) {
    context.mode = TlsMode::kFirstUse;
    done = use_new_certificate(context);
  } else if (!options.psk_file.empty()) {
    context.mode = TlsMode::kPsk;
    done = use_psk(context, options.psk_file);
  } else {
    context.mode = TlsMode::kCertificates;
    done = use_certificates(context, options);
  }
  if (!done) return std::unexpected(done.error());
  return context;
}

std::expected<void, std::string> check_peer_name(const std::string& name) {
  if (name.empty()) return std::unexpected(std::string("it is empty"));
  if (name.front() == '.' || name.find('*') != std::string::npos)
    return std::unexpected(
        fmt::format("\"{}\" would let in many hosts; give the name of one", name));
  return {};
}

bool certificate_names(X509* certificate, const std::string& name) {
  constexpr unsigned kExactly = X509_CHECK_FLAG_NO_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT;
  if (!check_peer_name(name)) return false;
  return is_address(name)
             ? X509_check_ip_asc(certificate, name.c_str(), 0) == 1
             : X509_check_host(certificate, name.c_str(), name.size(), kExactly, nullptr) == 1;
}

std::expected<SslPtr, Error> make_connection(const TlsContext& context, int fd,
                                             const std::string& peer_name) {
  SslPtr ssl(SSL_new(context.ctx.get()));
  if (!ssl || SSL_set_fd(ssl.get(), fd) != 1)
    return usage(fmt::format("cannot start TLS: {}", last_reason()));
  if (context.server) {
    SSL_set_accept_state(ssl.get());
    return ssl;
  }
  SSL_set_connect_state(ssl.get());
  const std::string bare = peer_name.substr(0, peer_name.find('%'));
  const bool by_address = is_address(bare);
  if (context.mode == TlsMode::kCertificates) {
    if (const auto fits = check_peer_name(peer_name); !fits)
      return usage("the peer's name is needed to check its certificate: " + fits.error());
    SSL_set_hostflags(ssl.get(),
                      X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    const int set = by_address
                        ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl.get()), bare.c_str())
                        : SSL_set1_host(ssl.get(), peer_name.c_str());
    if (set != 1) return usage(fmt::format("cannot check certificates for {}", peer_name));
  }
  if (!by_address && !peer_name.empty()) SSL_set_tlsext_host_name(ssl.get(), peer_name.c_str());
  return ssl;
}

std::string peer_fingerprint(SSL* ssl) {
  const X509* certificate = SSL_get0_peer_certificate(ssl);
  return certificate == nullptr ? std::string() : fingerprint(certificate);
}

bool peer_authenticated(const TlsContext& context, SSL* ssl) {
  switch (context.mode) {
    case TlsMode::kFirstUse:
      return false;
    case TlsMode::kPsk:
      return SSL_session_reused(ssl) == 1;
    case TlsMode::kCertificates:
      return SSL_get0_peer_certificate(ssl) != nullptr && SSL_get_verify_result(ssl) == X509_V_OK &&
             (SSL_get_verify_mode(ssl) & SSL_VERIFY_PEER) != 0;
  }
  return false;
}

}  // namespace psp::keyx
