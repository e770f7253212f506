// SPDX-License-Identifier: Apache-2.0
//
// Sockets and TLS of the C++ examples. Nothing in it is about PSP, except that the upgrade needs
// TLS 1.3, and that handshake() says what it wants in the same words.
//
// A client believes only the authorities that it is given, and a certificate only for the name that
// it asked for: keys that are exchanged with anybody protect from nobody. The handshake is for
// sockets that do not block. What fails throws, to keep to the matter.
#pragma once

#include <fcntl.h>
#include <memory>
#include <netdb.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
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
    // What RFC 9525 wants; of itself OpenSSL also takes the subject and parts of labels.
    SSL_set_hostflags(ssl.get(),
                      X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    need(SSL_set1_host(ssl.get(), peer.c_str()) == 1, "not a name for a certificate");
    SSL_set_tlsext_host_name(ssl.get(), peer.c_str());
    SSL_set_connect_state(ssl.get());
  }
  return ssl;
}

// handshake goes on with it on a non-blocking socket: PSP_UPGRADE_TLS when it is done,
// PSP_UPGRADE_WANT_READ, WANT_WRITE or FAILED.
inline int handshake(SSL* ssl) {
  ERR_clear_error();  // or SSL_get_error would tell of another connection
  switch (SSL_get_error(ssl, SSL_do_handshake(ssl))) {
    case SSL_ERROR_NONE:
      return PSP_UPGRADE_TLS;
    case SSL_ERROR_WANT_READ:
      return PSP_UPGRADE_WANT_READ;
    case SSL_ERROR_WANT_WRITE:
      return PSP_UPGRADE_WANT_WRITE;
    default:
      return PSP_UPGRADE_FAILED;
  }
}

// connect_to and listen_at give non-blocking sockets.
inline psp::tls::Fd connect_to(const char* host, const char* port) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  need(getaddrinfo(host, port, &hints, &found) == 0, "there is no such host");
  psp::tls::Fd fd(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int done = connect(fd.get(), found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  need(done == 0 && fcntl(fd.get(), F_SETFL, O_NONBLOCK) == 0, "cannot connect");
  return fd;
}

inline psp::tls::Fd listen_at(const char* port) {
  psp::tls::Fd fd(socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in6 any{};
  any.sin6_family = AF_INET6;
  any.sin6_port = htons(static_cast<in_port_t>(std::stoi(port)));
  need(bind(fd.get(), reinterpret_cast<sockaddr*>(&any), sizeof any) == 0, "cannot bind");
  need(listen(fd.get(), 128) == 0, "cannot listen");
  return fd;
}
