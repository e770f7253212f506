// SPDX-License-Identifier: Apache-2.0
//
// The options of a TCP segment: what a SYN offers, what two SYNs have agreed on, timestamps and
// SACK blocks; and how they are as octets, laid out as Linux does. What an option of a length that
// it cannot have says is not heard.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "random.hh"

namespace psp::sim {

struct SackBlock {
  std::uint32_t from = 0, to = 0;
  bool operator==(const SackBlock&) const = default;
};

struct Options {
  std::uint16_t mss = 0;  // 0: not told
  bool sack_permitted = false;
  bool scales = false;  // the window, by `scale`
  std::uint8_t scale = 0;
  bool timestamps = false;
  std::uint32_t value = 0, echo = 0;  // of the timestamps
  std::uint8_t blocks = 0;            // how many there are in `sack`
  std::array<SackBlock, 4> sack{};
  bool operator==(const Options&) const = default;
};

// Agreed is what the SYNs of both ends come to.
struct Agreed {
  std::uint16_t mss = 536;  // the most that the peer takes
  bool sack = false, timestamps = false;
  std::uint8_t send_scale = 0, receive_scale = 0;
};

std::size_t size_of(const Options& options);
// write_options fills `to`, which is as long as size_of says.
void write_options(const Options& options, std::span<std::uint8_t> to);
Options parse_options(std::span<const std::uint8_t> from);

// offer is what a host puts into a SYN: by chance, as its sysctls could say, or null: as Linux has
// them unless told otherwise.
Options offer(Random* random, std::uint16_t mss);
// answer_offer is what of `ours` the answer to a SYN with `theirs` has.
Options answer_offer(const Options& ours, const Options& theirs);
Agreed agree(const Options& ours, const Options& theirs);

}  // namespace psp::sim
