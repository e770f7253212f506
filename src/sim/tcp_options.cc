// SPDX-License-Identifier: Apache-2.0
//
// Options in the places where Linux has them: after the MSS what a SYN offers, the timestamps so
// that they lie on four octets, SACK behind them. An offer counts only if both have made it.
//
// The space is 40 octets: three SACK blocks beside timestamps, four without.
#include "tcp_options.hh"

#include <algorithm>

#include "wire/bytes.hh"

namespace psp::sim {
namespace {

using wire::load_be;
using wire::store_be;

enum : std::uint8_t { kEnd, kNop, kMss, kScale, kSackPermitted, kSack, kTimestamps = 8 };
constexpr std::size_t kWord = 4, kTimestampsSize = 12, kBlock = 8;
constexpr std::uint8_t kMostScale = 14;

// take hears one option of a plausible length.
void take(Options& options, std::uint8_t kind, std::span<const std::uint8_t> body) {
  if (kind == kMss && body.size() == 2) options.mss = load_be<std::uint16_t>(body.data());
  if (kind == kSackPermitted && body.empty()) options.sack_permitted = true;
  if (kind == kScale && body.size() == 1) {
    options.scales = true;
    options.scale = std::min(body[0], kMostScale);
  }
  if (kind == kTimestamps && body.size() == 8) {
    options.timestamps = true;
    options.value = load_be<std::uint32_t>(body.data());
    options.echo = load_be<std::uint32_t>(body.data() + 4);
  }
  if (kind != kSack || body.size() % kBlock != 0 || body.size() > 4 * kBlock) return;
  options.blocks = static_cast<std::uint8_t>(body.size() / kBlock);
  for (std::size_t i = 0; i < options.blocks; ++i)
    options.sack[i] = {load_be<std::uint32_t>(body.data() + i * kBlock),
                       load_be<std::uint32_t>(body.data() + i * kBlock + 4)};
}

}  // namespace

std::size_t size_of(const Options& o) {
  std::size_t size = o.mss != 0 ? kWord : 0;
  if (o.timestamps) size += kTimestampsSize;
  if (o.sack_permitted && !o.timestamps) size += kWord;
  if (o.scales) size += kWord;
  return size + (o.blocks != 0 ? kWord + o.blocks * kBlock : 0);
}

void write_options(const Options& o, std::span<std::uint8_t> to) {
  std::uint8_t* at = to.data();
  const auto word = [&at](std::uint8_t a, std::uint8_t b, std::uint8_t c, std::uint8_t d) {
    for (const std::uint8_t octet : {a, b, c, d}) *at++ = octet;
  };
  const auto number = [&at](std::uint32_t value) {
    store_be(at, value);
    at += kWord;
  };
  if (o.mss != 0)
    word(kMss, 4, static_cast<std::uint8_t>(o.mss >> 8), static_cast<std::uint8_t>(o.mss));
  if (o.timestamps) {
    if (o.sack_permitted)
      word(kSackPermitted, 2, kTimestamps, 10);
    else
      word(kNop, kNop, kTimestamps, 10);
    number(o.value);
    number(o.echo);
  } else if (o.sack_permitted) {
    word(kNop, kNop, kSackPermitted, 2);
  }
  if (o.scales) word(kNop, kScale, 3, o.scale);
  if (o.blocks == 0) return;
  word(kNop, kNop, kSack, static_cast<std::uint8_t>(2 + o.blocks * kBlock));
  for (std::size_t i = 0; i < o.blocks; ++i) {
    number(o.sack[i].from);
    number(o.sack[i].to);
  }
}

Options parse_options(std::span<const std::uint8_t> from) {
  Options options;
  while (!from.empty() && from[0] != kEnd) {
    if (from[0] == kNop) {
      from = from.subspan(1);
      continue;
    }
    if (from.size() < 2 || from[1] < 2 || from[1] > from.size()) break;
    take(options, from[0], from.subspan(2, from[1] - 2u));
    from = from.subspan(from[1]);
  }
  return options;
}

Options offer(Random* random, std::uint16_t mss) {
  Options options;
  options.mss = mss;
  options.sack_permitted = options.timestamps = options.scales = true;
  options.scale = 7;
  if (random == nullptr) return options;
  const bool tells = !random->chance(50'000), small = random->chance(50'000);
  if (!tells) options.mss = 0;
  if (tells && small) options.mss = std::min<std::uint16_t>(mss, 900);
  options.sack_permitted = !random->chance(250'000);
  options.timestamps = !random->chance(400'000);
  options.scales = !random->chance(300'000);
  options.scale = static_cast<std::uint8_t>(random->chance(100'000) ? 14 : random->below(10));
  if (!options.scales) options.scale = 0;
  return options;
}

Options answer_offer(const Options& ours, const Options& theirs) {
  Options options = ours;
  options.sack_permitted &= theirs.sack_permitted;
  options.timestamps &= theirs.timestamps;
  options.scales &= theirs.scales;
  return options;
}

Agreed agree(const Options& ours, const Options& theirs) {
  Agreed agreed;
  if (theirs.mss != 0) agreed.mss = theirs.mss;
  agreed.sack = ours.sack_permitted && theirs.sack_permitted;
  agreed.timestamps = ours.timestamps && theirs.timestamps;
  if (ours.scales && theirs.scales) {
    agreed.send_scale = theirs.scale;
    agreed.receive_scale = ours.scale;
  }
  return agreed;
}

}  // namespace psp::sim
