// SPDX-License-Identifier: Apache-2.0
//
// Comparison in constant time, by the function that OpenSSL maintains for it.
#include <openssl/crypto.h>

#include <psp/crypto/secret.hh>

namespace psp::crypto {

bool constant_time_equal(std::span<const std::uint8_t> a, std::span<const std::uint8_t> b) {
  return a.size() == b.size() && (a.empty() || CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0);
}

}  // namespace psp::crypto
