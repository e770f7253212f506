// SPDX-License-Identifier: Apache-2.0
//
// What every loop does: to register what a program cannot start without. That is over once it runs:
// a registration that is refused then would end what nobody can do without, and nobody would notice
// the mistake before.
#include "base/loop.hh"

#include <cstdio>
#include <cstdlib>

namespace psp {

Loop::Source Loop::needed(std::expected<Source, int> source) {
  if (running_) {
    std::fputs("an event is registered as needed while the loop runs\n", stderr);
    std::abort();
  }
  if (source) return std::move(*source);
  complete_ = false;
  return Source();
}

}  // namespace psp
