// SPDX-License-Identifier: Apache-2.0
//
// Comparison in constant time, by the function that OpenSSL maintains for it: a comparison that
// ends at the first difference tells whoever measures it how far he was right. Lengths are public,
// and compared first. ICVs are not compared here: each backend does that as part of opening a
// packet.
#include "crypto/secret.hh"

#include <openssl/crypto.h>

namespace psp::crypto {

bool constant_time_equal(std::span<const std::uint8_t> a, std::span<const std::uint8_t> b) {
  return a.size() == b.size() && (a.empty() || CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0);
}

}  // namespace psp::crypto
