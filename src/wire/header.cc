// SPDX-License-Identifier: Apache-2.0
//
// The PSP header, parser and writer side by side: the only place that knows its bits. The layout is
// drawn in header.hh, the rules are in docs/protocol.md, section 2. The parser judges shape alone:
// whether there is such a version, and a key for the SPI, its caller asks then. An unknown version
// may use the crypt offset, so that is judged too; of GMAC it means nothing. Reserved bits are
// passed over here and are covered by the ICV.
#include "wire/header.hh"

#include <algorithm>
#include <cstring>

#include "wire/bytes.hh"

#include "read_header.hh"

namespace psp::wire {
namespace {

constexpr std::size_t kNextHeaderAt = 0;
constexpr std::size_t kExtLengthAt = 1;
constexpr std::size_t kCryptOffsetAt = 2;
constexpr std::size_t kFlagsAt = 3;
constexpr std::size_t kSpiAt = 4;
constexpr std::size_t kIvAt = 8;
constexpr std::size_t kCookieAt = kPspBaseHeader;

constexpr std::uint8_t kSampleBit = 0x80;
constexpr std::uint8_t kDropAfterSamplingBit = 0x40;
constexpr unsigned kVersionShift = 2;
constexpr std::uint8_t kVersionMask = 0x0f;
constexpr std::uint8_t kCookieBit = 0x02;
constexpr std::uint8_t kFixedBit = 0x01;

// The header ends at 8 * (1 + ext_length): 1 is needed for the IV, one more for the cookie.
constexpr std::uint8_t kMinExtLength = 1;
constexpr std::uint8_t kMinExtLengthWithCookie = 2;

std::uint8_t flags_of(const PspHeader& header) {
  unsigned flags = kFixedBit | (header.version_number & kVersionMask) << kVersionShift;
  if (header.sample) flags |= kSampleBit;
  if (header.drop_after_sampling) flags |= kDropAfterSamplingBit;
  if (header.cookie) flags |= kCookieBit;
  return static_cast<std::uint8_t>(flags);
}

}  // namespace

std::optional<Drop> read_header(std::span<const std::uint8_t> datagram, PspHeader& header) {
  if (datagram.size() < kPspBaseHeader + kIcv) return Drop::TRUNCATED;
  const std::uint8_t* octets = datagram.data();
  const std::uint8_t flags = octets[kFlagsAt];
  const bool has_cookie = flags & kCookieBit;
  header.next_header = octets[kNextHeaderAt];
  header.ext_length = octets[kExtLengthAt];
  header.crypt_offset = crypt_offset_of(octets);
  header.sample = flags & kSampleBit;
  header.drop_after_sampling = flags & kDropAfterSamplingBit;
  header.version_number = flags >> kVersionShift & kVersionMask;
  header.spi = {load_be<std::uint32_t>(octets + kSpiAt)};
  header.iv = load_be<std::uint64_t>(octets + kIvAt);

  const std::uint8_t min_length = has_cookie ? kMinExtLengthWithCookie : kMinExtLength;
  if (!(flags & kFixedBit) || header.ext_length < min_length) return Drop::BAD_HEADER;
  if (datagram.size() < header.size() + kIcv) return Drop::TRUNCATED;
  const auto version = header.version();
  const bool offset_matters = !version || encrypts(*version);
  if (offset_matters && header.crypt_offset.octets() > datagram.size() - kPspBaseHeader - kIcv)
    return Drop::BAD_CRYPT_OFFSET;
  header.cookie.reset();
  if (has_cookie) header.cookie = load_be<std::uint64_t>(octets + kCookieAt);
  return std::nullopt;
}

std::expected<PspHeader, Drop> parse_header(std::span<const std::uint8_t> datagram) {
  std::expected<PspHeader, Drop> header;
  if (const auto refused = read_header(datagram, *header)) header = std::unexpected(*refused);
  return header;
}

std::size_t write_header(std::span<std::uint8_t> out, const PspHeader& header) {
  std::uint8_t* octets = out.data();
  octets[kNextHeaderAt] = header.next_header;
  octets[kExtLengthAt] = header.ext_length;
  octets[kCryptOffsetAt] = header.crypt_offset.units & CryptOffset::kMaxUnits;
  octets[kFlagsAt] = flags_of(header);
  store_be(octets + kSpiAt, header.spi.value);
  store_be(octets + kIvAt, header.iv);
  std::size_t end = kPspBaseHeader;
  if (header.cookie) {
    store_be(octets + kCookieAt, *header.cookie);
    end += kVirtualizationCookie;
  }
  const std::size_t size = std::max(header.size(), end);
  if (end < size) std::memset(octets + end, 0, size - end);
  return size;
}

}  // namespace psp::wire
