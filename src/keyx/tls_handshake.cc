// SPDX-License-Identifier: Apache-2.0
//
// The TLS handshake step by step, as far as the socket lets it go, and OpenSSL's error queue as one
// sentence that says what to do. OpenSSL names what went wrong inside; the table says what it means
// to who set up the two ends. A handshake by PSK that ended without it is refused: OpenSSL would go
// on by certificates, and nobody would be known.
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/x509.h>

#include "keyx/tls.hh"

namespace psp::keyx {
namespace {

// Advice is what a reason of OpenSSL means to a user; `reason` as in <openssl/sslerr.h>.
struct Advice {
  int reason;
  ErrorCode code;
  const char* text;
};

constexpr Advice kAdvice[] = {
    {SSL_R_WRONG_VERSION_NUMBER, ErrorCode::kProtocol, "the other end does not speak TLS"},
    {SSL_R_HTTP_REQUEST, ErrorCode::kProtocol, "the other end speaks HTTP, not TLS"},
    {SSL_R_UNSUPPORTED_PROTOCOL, ErrorCode::kProtocol, "the other end does not speak TLS 1.3"},
    {SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, ErrorCode::kProtocol,
     "the other end does not speak TLS 1.3"},
    {SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC, ErrorCode::kAuthentication,
     "a TLS record was changed on the way; do not trust this network path"},
    {SSL_R_SSLV3_ALERT_BAD_RECORD_MAC, ErrorCode::kAuthentication,
     "a TLS record was changed on the way (the other end says); do not trust this network path"},
    {SSL_R_BINDER_DOES_NOT_VERIFY, ErrorCode::kAuthentication,
     "the other end has a different pre-shared key"},
    {SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE, ErrorCode::kAuthentication,
     "the other end showed no certificate, which is demanded here; give it one, with its key"},
    {SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED, ErrorCode::kAuthentication,
     "the other end demands a certificate; give this end one, with its key"},
    {SSL_R_TLSV1_ALERT_UNKNOWN_CA, ErrorCode::kAuthentication,
     "the other end does not know the authority of our certificate; give it that authority"},
    {SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN, ErrorCode::kAuthentication,
     "the other end did not accept our certificate; see its message"},
    {SSL_R_SSLV3_ALERT_BAD_CERTIFICATE, ErrorCode::kAuthentication,
     "the other end did not accept our certificate; see its message"},
    {SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED, ErrorCode::kAuthentication,
     "the other end says that our certificate has expired"},
    {SSL_R_TLSV1_ALERT_DECRYPT_ERROR, ErrorCode::kAuthentication,
     "the other end could not verify our key; see its message"},
    {SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM, ErrorCode::kAuthentication,
     "this end has no certificate to show: both ends must use certificates, or both the same PSK"},
    {SSL_R_NO_SHARED_CIPHER, ErrorCode::kAuthentication,
     "the ends do not use the same kind of credentials: certificates on both, or the same PSK"},
    {SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE, ErrorCode::kAuthentication,
     "the other end refused the handshake: certificates on both ends, or the same PSK on both"},
    {SSL_R_SSLV3_ALERT_ILLEGAL_PARAMETER, ErrorCode::kAuthentication,
     "the other end refused our pre-shared key; both ends must have the same"},
};

Error verify_error(long result, const std::string& doing) {
  const char* advice = "";
  switch (result) {
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      advice = "; the certificate is for another name than the one you gave";
      break;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
      advice = "; its authority is not one that this end believes";
      break;
    default:
      break;
  }
  return {ErrorCode::kAuthentication, 0,
          fmt::format("the peer's certificate is not accepted ({}): {}{}", doing,
                      X509_verify_cert_error_string(result), advice)};
}

}  // namespace

Error tls_error(SSL* ssl, int result, int sys_errno, const std::string& doing) {
  const unsigned long code = ERR_peek_error();
  const int reason = ERR_GET_REASON(code);
  const bool ours = ERR_GET_LIB(code) == ERR_LIB_SSL;
  ERR_clear_error();
  if (ours && reason == SSL_R_CERTIFICATE_VERIFY_FAILED)
    return verify_error(SSL_get_verify_result(ssl), doing);
  if (result == SSL_ERROR_ZERO_RETURN || (ours && reason == SSL_R_UNEXPECTED_EOF_WHILE_READING) ||
      (result == SSL_ERROR_SYSCALL && sys_errno == 0))
    return {ErrorCode::kPeerClosed, 0,
            fmt::format("the peer closed the connection ({}); see its own message", doing)};
  if (result == SSL_ERROR_SYSCALL)
    return {sys_errno == ECONNRESET || sys_errno == EPIPE ? ErrorCode::kPeerClosed : ErrorCode::kIo,
            sys_errno,
            fmt::format("the connection broke ({}): {}; see the peer's own message", doing,
                        std::strerror(sys_errno))};
  if (ours)
    for (const Advice& advice : kAdvice)
      if (advice.reason == reason)
        return {advice.code, 0, fmt::format("TLS failed ({}): {}", doing, advice.text)};
  const char* words = ERR_reason_error_string(code);
  return {ErrorCode::kProtocol, 0,
          fmt::format("TLS failed ({}): {}", doing, words != nullptr ? words : "no reason given")};
}

std::expected<Step, Error> handshake(const TlsContext& context, SSL* ssl) {
  const BoundedReads bound(ssl);
  ERR_clear_error();
  errno = 0;
  const int done = SSL_do_handshake(ssl);
  if (done != 1) {
    const int sys_errno = errno;
    const int result = SSL_get_error(ssl, done);
    if (result == SSL_ERROR_WANT_READ) return Step::kWantRead;
    if (result == SSL_ERROR_WANT_WRITE) return Step::kWantWrite;
    return std::unexpected(tls_error(ssl, result, sys_errno, "in the TLS handshake"));
  }
  if (context.mode == TlsMode::kPsk && !peer_authenticated(context, ssl))
    return std::unexpected(
        Error{ErrorCode::kAuthentication, 0,
              "the other end did not use the pre-shared key; give both ends the same"});
  return Step::kDone;
}

}  // namespace psp::keyx
