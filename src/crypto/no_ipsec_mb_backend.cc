// SPDX-License-Identifier: Apache-2.0
//
// Stands in for ipsec_mb_backend.cc where the library is missing or the machine is no x86-64: there
// is no such backend then, and OpenSSL does the work. The build takes one file or the other
// (src/crypto/CMakeLists.txt), so that nobody else asks the preprocessor. A processor that cannot
// run the library is found out by the real file, when it makes its manager.
#include "crypto/aead.hh"

namespace psp::crypto {

const Backend* ipsec_mb_backend() { return nullptr; }

}  // namespace psp::crypto
