// SPDX-License-Identifier: Apache-2.0
//
// Random octets from the kernel. There is no second source: a program whose keys might be guessable
// must not run. With flags 0 getrandom waits until the kernel's generator is seeded, once, early
// after boot. Device keys come from here, and all that others must not guess: tokens, epochs, the
// key of source ports.
//
// Threading: any.
#include <cerrno>
#include <sys/random.h>

#include "crypto/aead.hh"

#include "require.hh"

namespace psp::crypto {

void random_bytes(std::span<std::uint8_t> out) {
  while (!out.empty()) {
    const ssize_t got = getrandom(out.data(), out.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    require(got > 0, "getrandom gives random octets");
    out = out.subspan(static_cast<std::size_t>(got));
  }
}

}  // namespace psp::crypto
