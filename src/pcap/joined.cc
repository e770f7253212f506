// SPDX-License-Identifier: Apache-2.0
//
// The search goes from one likely second header to the next, so it costs little where there is
// none. What is alike in PSP headers of one flow: the first three octets, the flags but for S and
// D, the SPI, and the high half of the IV, which counts picoseconds and so stands still for
// milliseconds. Ciphertext that looks so by accident is rare enough at two such marks. A first
// guess may be a multiple of the right length, if headers before it are damaged: smaller ones are
// tried first.
#include "pcap/joined.hh"

#include <cstring>

#include "wire/bytes.hh"
#include "wire/header.hh"

namespace psp::pcap {
namespace {

constexpr std::size_t kFixed = 3;  // Next Header, Hdr Ext Len, Crypt Offset
constexpr std::size_t kFlagsAt = 3;
constexpr std::uint8_t kSampling = 0xc0;      // S and D may differ from datagram to datagram
constexpr std::size_t kSpiAt = 4, kIvAt = 8;  // of the IV its high half
constexpr unsigned kEnough = 2;               // marks of some 30 bits each
constexpr std::size_t kSkipped = 3;           // headers in a row that may be damaged, and one

// marks is how much the header at `p` is like the first: 0 if it is none of the kind, 3 at most.
unsigned marks(const std::uint8_t* first, const std::uint8_t* p) {
  if (std::memcmp(first, p, kFixed) != 0 || ((first[kFlagsAt] ^ p[kFlagsAt]) & ~kSampling) != 0)
    return 0;
  return 1u + (std::memcmp(first + kSpiAt, p + kSpiAt, 4) == 0) +
         (std::memcmp(first + kIvAt, p + kIvAt, 4) == 0);
}

// fits: more than half of the steps lead to such a header, together they are no accident, and the
// last datagram has the `least` octets that each must have.
bool fits(std::span<const std::uint8_t> payload, std::size_t stride, std::size_t least) {
  const std::size_t last = payload.size() - (payload.size() - 1) / stride * stride;
  if (stride < least || last < least) return false;
  std::size_t steps = 0, like = 0, all = 0;
  for (std::size_t at = stride; at < payload.size(); at += stride, ++steps) {
    const unsigned found = marks(payload.data(), payload.data() + at);
    like += found != 0;
    all += found;
  }
  return 2 * like > steps && all >= kEnough;
}

}  // namespace

std::size_t joined_stride(std::span<const std::uint8_t> payload) {
  if (payload.size() < kPspBaseHeader) return 0;
  const std::size_t least = (payload[1] + 1u) * 8 + kIcv;
  for (std::size_t stride = least; stride + least <= payload.size(); ++stride) {
    const void* next = ::memmem(payload.data() + stride, payload.size() - least - stride + kFixed,
                                payload.data(), kFixed);
    if (next == nullptr) return 0;
    stride = static_cast<std::size_t>(static_cast<const std::uint8_t*>(next) - payload.data());
    // The headers before this one may be damaged.
    for (std::size_t parts = kSkipped; parts != 0; --parts)
      if (stride % parts == 0 && fits(payload, stride / parts, least)) return stride / parts;
  }
  return 0;
}

}  // namespace psp::pcap
