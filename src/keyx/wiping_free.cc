// SPDX-License-Identifier: Apache-2.0
//
// OpenSSL's allocator, with a wipe before each free: its own clears only what it takes for secret.
// The C library knows how large a block is. It holds for all of OpenSSL in the process and must
// come before its first allocation, so it is for programs and not done by libpsp-tls to its user's
// process. Memory that is never freed, and the stack, it does not reach. Shown in wiped_test.cc.
//
// Threading: any.
#include <cstdlib>
#include <cstring>
#include <malloc.h>

#include "keyx/tls.hh"

namespace psp::keyx {
namespace {

void* on_malloc(std::size_t size, const char*, int) { return std::malloc(size); }

void on_free(void* octets, const char*, int) {
  if (octets != nullptr) explicit_bzero(octets, malloc_usable_size(octets));
  std::free(octets);
}

// realloc() would leave the old block behind as it is.
void* on_realloc(void* octets, std::size_t size, const char* file, int line) {
  if (octets != nullptr && size != 0 && size <= malloc_usable_size(octets)) return octets;
  void* const out = size != 0 ? std::malloc(size) : nullptr;
  if (out == nullptr && size != 0) return nullptr;  // the old one stays
  if (out != nullptr && octets != nullptr) std::memcpy(out, octets, malloc_usable_size(octets));
  on_free(octets, file, line);
  return out;
}

}  // namespace

bool wipe_what_openssl_frees() {
  return CRYPTO_set_mem_functions(on_malloc, on_realloc, on_free) == 1;
}

}  // namespace psp::keyx
