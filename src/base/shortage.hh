// SPDX-License-Identifier: Apache-2.0
//
// is_shortage: did a call fail for want of descriptors or memory? It is worth another try a little
// later. What waits at a listener stays there meanwhile, and is announced at once and again: who
// accepts must rest (kShortagePause), or does nothing else.
#pragma once

#include <cerrno>
#include <chrono>

namespace psp {

inline bool is_shortage(int error) {
  return error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS;
}

constexpr std::chrono::milliseconds kShortagePause{10};

}  // namespace psp
