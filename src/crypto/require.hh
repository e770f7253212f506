// SPDX-License-Identifier: Apache-2.0
//
// require: for what only a programming error or a broken library can break. Going on would mean
// sealing with the wrong key or not at all, so the program ends. Never for what a peer, a file or a
// user can cause: those are results. The sentence goes to stderr and names no key. Kept in release
// builds, unlike assert.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace psp::crypto {

// require aborts with a sentence naming `what` was expected, if `held` is false.
inline void require(bool held, const char* what) {
  if (held) [[likely]]
    return;
  std::fprintf(stderr, "psp: fatal: %s does not hold\n", what);
  std::abort();
}

}  // namespace psp::crypto
