// SPDX-License-Identifier: Apache-2.0
//
// The choice of a backend by name.
#include <psp/crypto/aead.hh>

namespace psp::crypto {

const Backend* find_backend(std::string_view name) {
  const Backend* fast = ipsec_mb_backend();
  const Backend& portable = openssl_backend();
  if (name == "auto") return fast ? fast : &portable;
  if (fast && name == fast->name()) return fast;
  if (name == portable.name()) return &portable;
  return nullptr;
}

}  // namespace psp::crypto
