// SPDX-License-Identifier: Apache-2.0
//
// Random: the one source of chance of a run. The same seed gives the same numbers on every machine,
// which the distributions of the standard library do not promise.
//
// Parts of the model have sources of their own (fork), so that one that draws more often does not
// change what the others get. Keys come from here too (KeyRing is given its randomness): a run that
// asked the system for a single octet could not be repeated.
#pragma once

#include <cstdint>
#include <span>

namespace psp::sim {

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  // next is SplitMix64.
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // below is less than `limit`, which is not 0; between includes both ends.
  std::uint64_t below(std::uint64_t limit) { return next() % limit; }
  std::uint64_t between(std::uint64_t low, std::uint64_t high) {
    return low + below(high - low + 1);
  }
  // chance: `part` of a million.
  bool chance(std::uint32_t part) { return below(1'000'000) < part; }
  void fill(std::span<std::uint8_t> out) {
    for (auto& octet : out) octet = static_cast<std::uint8_t>(next());
  }
  // fork is a source of its own for a part of the model.
  Random fork() { return Random(next()); }

 private:
  std::uint64_t state_;
};

}  // namespace psp::sim
