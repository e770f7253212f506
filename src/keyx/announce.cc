// SPDX-License-Identifier: Apache-2.0
//
// The announcement in the TLS handshake: an extension of the private range in the ClientHello and
// the EncryptedExtensions, one octet, the version of the key exchange. It is part of the transcript
// that Finished authenticates, so nobody on the way can take it out.
//
// Both ends must come to the same answer. So a server's peer is one that announces if the server's
// answer went out, too: a context that a server-name callback has put in the place of the first may
// not announce. And the answer is this handshake's, by its client random: an SSL can be used again.
#include <algorithm>
#include <array>
#include <memory>
#include <new>

#include "keyx/message.hh"
#include "keyx/upgrade.hh"

namespace psp::keyx {
namespace {

constexpr unsigned kExtension = 0xff50;  // RFC 8446 section 11: 0xff00 and above are private
constexpr unsigned kContext =
    SSL_EXT_TLS1_3_ONLY | SSL_EXT_CLIENT_HELLO | SSL_EXT_TLS1_3_ENCRYPTED_EXTENSIONS;
constexpr std::uint8_t kContent[] = {kProtocolVersion};

using Random = std::array<std::uint8_t, 32>;

// State hangs on every SSL whose first context announces.
struct State {
  Random heard{}, said{};  // the client randoms of the handshakes in which it was
};

bool announces(const SSL* ssl) {
  SSL_CTX* const ctx = SSL_get_SSL_CTX(ssl);
  return ctx != nullptr && SSL_CTX_has_client_custom_ext(ctx, kExtension) != 0;
}

// Neither may throw: OpenSSL calls them. Without memory there is no State, and nobody announced.
void on_new(void* ssl, void*, CRYPTO_EX_DATA* data, int index, long, void*) {
  if (!announces(static_cast<const SSL*>(ssl))) return;
  std::unique_ptr<State> state(new (std::nothrow) State);
  if (state && CRYPTO_set_ex_data(data, index, state.get()) == 1) [[maybe_unused]]
    const State* owned_by_ssl = state.release();
}

// SSL_dup makes an SSL, with a State of its own, and then copies: into that.
int on_dup(CRYPTO_EX_DATA* to, const CRYPTO_EX_DATA*, void** state, int index, long, void*) {
  auto* const own = static_cast<State*>(CRYPTO_get_ex_data(to, index));
  if (own != nullptr && *state != nullptr) *own = *static_cast<const State*>(*state);
  *state = own;
  return 1;
}

void on_free(void*, void* state, CRYPTO_EX_DATA*, int, long, void*) {
  std::unique_ptr<State>(static_cast<State*>(state)).reset();
}

int state_index() {
  static const int index =
      CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL, 0, nullptr, on_new, on_dup, on_free);
  return index;
}

State* state_of(const SSL* ssl) { return static_cast<State*>(SSL_get_ex_data(ssl, state_index())); }

Random this_handshake(const SSL* ssl) {
  Random out{};
  SSL_get_client_random(ssl, out.data(), out.size());
  return out;
}

int on_add(SSL* ssl, unsigned, unsigned context, const unsigned char** out, std::size_t* size,
           X509*, std::size_t, int*, void*) {
  State* const state = state_of(ssl);
  if (state == nullptr) return 0;  // say nothing
  if (context == SSL_EXT_TLS1_3_ENCRYPTED_EXTENSIONS) state->said = this_handshake(ssl);
  *out = kContent;
  *size = sizeof kContent;
  return 1;
}

// Any content counts: versions of the exchange are compared inside it, with better words.
int on_parse(SSL* ssl, unsigned, unsigned, const unsigned char*, std::size_t, X509*, std::size_t,
             int*, void*) {
  if (State* const state = state_of(ssl)) state->heard = this_handshake(ssl);
  return 1;
}

}  // namespace

bool announce(SSL_CTX* ctx) {
  return state_index() >= 0 && SSL_CTX_add_custom_ext(ctx, kExtension, kContext, on_add, nullptr,
                                                      nullptr, on_parse, nullptr) == 1;
}

Announced announced(const SSL* ssl) {
  const State* const state = state_of(ssl);
  if (state == nullptr) return announces(ssl) ? Announced::kNo : Announced::kNotAsked;
  const Random now = this_handshake(ssl);
  const bool none = std::ranges::all_of(now, [](std::uint8_t octet) { return octet == 0; });
  const bool said = SSL_is_server(ssl) == 0 || state->said == now;
  return !none && said && state->heard == now ? Announced::kYes : Announced::kNo;
}

}  // namespace psp::keyx
