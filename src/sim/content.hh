// SPDX-License-Identifier: Apache-2.0
//
// What applications write: octets that are known from the stream and the place in it, so that a
// reader can check each one, and that are found wherever they appear: every other eight octets are
// the mark. Programs that know nothing of this (TLS) write real octets, which are kept beside it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <vector>

namespace psp::sim {

inline constexpr std::array<std::uint8_t, 8> kMark = {0xc1, 0xea, 0x12, 0x7e,
                                                      0x87, 0x5e, 0xc2, 0xe7};

inline constexpr std::uint32_t kContentBlock = 16;

// content_block are the octets at 16 * number of a stream: the mark, and eight of its own.
inline std::array<std::uint8_t, kContentBlock> content_block(std::uint64_t stream,
                                                             std::uint32_t number) {
  std::uint64_t z = stream * 0x9e3779b97f4a7c15u + number;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  std::array<std::uint8_t, kContentBlock> block;
  std::ranges::copy(kMark, block.begin());
  for (unsigned i = 0; i < 8; ++i) block[8 + i] = static_cast<std::uint8_t>(z >> (8 * i));
  return block;
}

// content_octet is the octet at `place` of a stream.
inline std::uint8_t content_octet(std::uint64_t stream, std::uint32_t place) {
  return content_block(stream, place / kContentBlock)[place % kContentBlock];
}

// each_content shows `visit` the content of `size` octets from `place` on, in pieces: where each
// begins, from 0, and its octets. False: `visit` has said so.
template <typename Visit>
bool each_content(std::uint64_t stream, std::uint32_t place, std::size_t size, Visit visit) {
  for (std::size_t at = 0; at < size;) {
    const auto block = content_block(stream, place / kContentBlock);
    const std::uint32_t from = place % kContentBlock;
    const std::size_t piece = std::min<std::size_t>(kContentBlock - from, size - at);
    if (!visit(at, std::span(block).subspan(from, piece))) return false;
    at += piece;
    place += static_cast<std::uint32_t>(piece);
  }
  return true;
}

inline void write_content(std::uint64_t stream, std::uint32_t place, std::span<std::uint8_t> out) {
  each_content(stream, place, out.size(), [out](std::size_t at, auto octets) {
    std::ranges::copy(octets, out.begin() + static_cast<std::ptrdiff_t>(at));
    return true;
  });
}

// is_content: are these the octets of the stream at that place?
inline bool is_content(std::uint64_t stream, std::uint32_t place,
                       std::span<const std::uint8_t> octets) {
  return each_content(stream, place, octets.size(), [octets](std::size_t at, auto expected) {
    return std::memcmp(octets.data() + at, expected.data(), expected.size()) == 0;
  });
}

// Written are the real octets of a stream, by their places. All others are content.
class Written {
 public:
  void add(std::uint32_t place, std::span<const std::uint8_t> octets) {
    pieces_[place].assign(octets.begin(), octets.end());
    end_ = std::max(end_, place + static_cast<std::uint32_t>(octets.size()));
  }
  // put writes over `out`, which begins at `place`, what is real of it.
  void put(std::uint32_t place, std::span<std::uint8_t> out) const {
    for (const auto& [from, octets] : pieces_) {
      const std::size_t end = from + octets.size();
      const std::size_t first = std::max(from, place);
      const std::size_t last = std::min<std::size_t>(end, place + out.size());
      if (first < last)
        std::memcpy(out.data() + (first - place), octets.data() + (first - from), last - first);
    }
  }
  std::uint32_t end() const { return end_; }

 private:
  std::map<std::uint32_t, std::vector<std::uint8_t>> pieces_;
  std::uint32_t end_ = 0;
};

// write_stream is what was written at `place`; `real` may be null.
inline void write_stream(std::uint64_t stream, const Written* real, std::uint32_t place,
                         std::span<std::uint8_t> out) {
  write_content(stream, place, out);
  if (real != nullptr && place < real->end()) real->put(place, out);
}

// is_written: are these the octets of the stream at that place?
inline bool is_written(std::uint64_t stream, const Written* real, std::uint32_t place,
                       std::span<const std::uint8_t> octets) {
  if (real == nullptr || place >= real->end()) return is_content(stream, place, octets);
  std::vector<std::uint8_t> expected(octets.size());
  write_stream(stream, real, place, expected);
  return std::ranges::equal(expected, octets);
}

}  // namespace psp::sim
