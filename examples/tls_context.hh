// SPDX-License-Identifier: Apache-2.0
//
// TLS of the C++ examples: nothing in it is about PSP, except that the upgrade needs TLS 1.3.
#pragma once

#include <memory>
#include <openssl/ssl.h>
#include <stdexcept>
#include <string>

#include <psp/tls.hh>

struct ContextFree {
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
using Context = std::unique_ptr<SSL_CTX, ContextFree>;

inline void need(bool done, const char* what) {
  if (!done) throw std::runtime_error(what);
}

inline Context server_context(const char* certificate, const char* key) {
  Context context(SSL_CTX_new(TLS_server_method()));
  SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION);
  need(SSL_CTX_use_certificate_chain_file(context.get(), certificate) == 1, "no certificate");
  need(SSL_CTX_use_PrivateKey_file(context.get(), key, SSL_FILETYPE_PEM) == 1, "no key for it");
  return context;
}

inline Context client_context(const char* authorities) {
  Context context(SSL_CTX_new(TLS_client_method()));
  SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  need(SSL_CTX_load_verify_file(context.get(), authorities) == 1, "no authorities");
  return context;
}

// new_ssl is TLS on a socket. `peer` is the name that a server's certificate must have; a server
// itself gives none.
inline psp::tls::SslPtr new_ssl(SSL_CTX* context, int fd, const std::string& peer = "") {
  psp::tls::SslPtr ssl(SSL_new(context));
  need(ssl && SSL_set_fd(ssl.get(), fd) == 1, "cannot begin TLS");
  if (peer.empty()) {
    SSL_set_accept_state(ssl.get());
  } else {
    need(SSL_set1_host(ssl.get(), peer.c_str()) == 1, "not a name for a certificate");
    SSL_set_tlsext_host_name(ssl.get(), peer.c_str());
    SSL_set_connect_state(ssl.get());
  }
  return ssl;
}
