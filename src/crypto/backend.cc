// SPDX-License-Identifier: Apache-2.0
//
// The choice of a backend by name, as the programs' options have it. "auto" is the fast one where
// it is built in and the processor can run it. A name that is not there is nullptr and nothing else
// is taken in its place: the program says so and ends. Whoever takes one has to run its self_test
// before the first packet.
#include "crypto/aead.hh"

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
