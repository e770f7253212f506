// SPDX-License-Identifier: Apache-2.0
//
// The announcement in the TLS handshake: an extension of the private range in the ClientHello and
// the EncryptedExtensions, one octet, the version of the key exchange. It is part of the transcript
// that Finished authenticates, so nobody on the way can take it out.
#include <psp/keyx/message.hh>
#include <psp/keyx/upgrade.hh>

namespace psp::keyx {
namespace {

constexpr unsigned kExtension = 0xff50;  // RFC 8446 section 11: 0xff00 and above are private
constexpr unsigned kContext =
    SSL_EXT_TLS1_3_ONLY | SSL_EXT_CLIENT_HELLO | SSL_EXT_TLS1_3_ENCRYPTED_EXTENSIONS;
constexpr std::uint8_t kContent[] = {kProtocolVersion};

int flag_index() {
  static const int index =
      CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL, 0, nullptr, nullptr, nullptr, nullptr);
  return index;
}

int on_add(SSL*, unsigned, unsigned, const unsigned char** out, std::size_t* size, X509*,
           std::size_t, int*, void*) {
  *out = kContent;
  *size = sizeof kContent;
  return 1;
}

// Any content counts: versions of the exchange are compared inside it, with better words.
int on_parse(SSL* ssl, unsigned, unsigned, const unsigned char*, std::size_t, X509*, std::size_t,
             int*, void*) {
  return SSL_set_ex_data(ssl, flag_index(), const_cast<std::uint8_t*>(kContent));
}

}  // namespace

bool announce(SSL_CTX* ctx) {
  flag_index();
  return SSL_CTX_add_custom_ext(ctx, kExtension, kContext, on_add, nullptr, nullptr, on_parse,
                                nullptr) == 1;
}

Announced announced(const SSL* ssl) {
  SSL_CTX* const ctx = SSL_get_SSL_CTX(ssl);
  if (ctx == nullptr || SSL_CTX_has_client_custom_ext(ctx, kExtension) == 0)
    return Announced::kNotAsked;
  return SSL_get_ex_data(ssl, flag_index()) != nullptr ? Announced::kYes : Announced::kNo;
}

}  // namespace psp::keyx
