// SPDX-License-Identifier: Apache-2.0
//
// Stands in for ipsec_mb_backend.cc where the library or the processor is missing.
#include <psp/crypto/aead.hh>

namespace psp::crypto {

const Backend* ipsec_mb_backend() { return nullptr; }

}  // namespace psp::crypto
