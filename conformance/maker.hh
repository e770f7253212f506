// SPDX-License-Identifier: Apache-2.0
//
// Maker makes the cases of the corpus from a seed: make_cases.cc those that are sealed and come
// back, make_damaged.cc those that arrive damaged or are unusual.
//
// All that is random comes from the one generator, in the order of the calls, and IVs are counted.
// So a case in the middle changes all that come after it: new ones belong at the end of run().
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "corpus.hh"

namespace psp::conformance {

inline constexpr std::uint8_t kTcp = 6, kUdp = 17, kSctp = 132, kIcmp = 1, kDestinationOptions = 60;
inline constexpr std::uint32_t kPhase0 = 0x1a345678, kPhase1 = 0x9a345678;

// Random is SplitMix64 (Steele, Lea, Flood 2014): the same numbers on every machine.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    state_ += 0x9e37'79b9'7f4a'7c15u;
    std::uint64_t z = state_;
    z = (z ^ z >> 30) * 0xbf58'476d'1ce4'e5b9u;
    z = (z ^ z >> 27) * 0x94d0'49bb'1331'11ebu;
    return z ^ z >> 31;
  }
  Octets octets(std::size_t size) {
    Octets made(size);
    for (auto& octet : made) octet = static_cast<std::uint8_t>(next() >> 32);
    return made;
  }

 private:
  std::uint64_t state_;
};

// put_ip_checksum puts that of an IPv4 header right.
void put_ip_checksum(Octets& packet);
// reseal writes the ICV again for what now stands in a packet without crypt offset.
void reseal(Keys& keys, Octets& packet, const Case& one, std::size_t psp);

// Shape is what an inner packet looks like.
struct Shape {
  std::uint8_t family = 4;
  std::uint8_t protocol = kTcp;
  std::size_t payload = 24;  // behind the L4 header
  std::size_t options = 0;   // octets of IPv4 options
};

// Maker has the cases made so far. Each add_* is one paragraph of README.md.
class Maker {
 public:
  Maker(Keys& keys, std::uint64_t seed) : keys_(keys), random_(seed) {}

  std::vector<Case> run() {
    add_combinations();
    add_mixed();
    add_sizes();
    add_edges();
    add_shapes();
    add_receive_only();
    for (unsigned version = 0; version < kVersions; ++version) add_flipped(*to_version(version));
    add_outer_flipped();
    add_truncated();
    add_lengths();
    add_headers();
    add_not_psp();
    add_inner();
    check_names();
    return std::move(cases_);
  }

 private:
  Octets l4_header(const Shape& shape);
  Octets clear_packet(const Shape& shape);
  Case sender(std::string name, bool tunnel, const Shape& shape, Version version, Spi spi);
  void add_sealed(Case one);
  void add_received(std::string name, Octets packet, bool open_question = false);
  Case base(Version version, std::uint8_t family, std::size_t extension = 0);

  void add_combinations();
  void add_mixed();
  void add_sizes();
  void add_edges();
  void add_shapes();
  void add_receive_only();
  void add_flipped(Version version);
  void add_outer_flipped();
  void add_truncated();
  void add_lengths();
  void add_headers();
  void add_not_psp();
  void add_inner();
  void check_names() const;

  Keys& keys_;
  Random random_;
  std::uint64_t next_iv_ = 1;
  std::vector<Case> cases_;
};

}  // namespace psp::conformance
