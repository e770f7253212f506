// SPDX-License-Identifier: Apache-2.0
//
// The Internet checksum (RFC 1071), in parts: sums of several pieces, folded once at the end. The
// order of additions does not matter, which is what lets a checksum be corrected instead of
// computed.
#pragma once

#include <cstdint>
#include <span>

namespace psp::wire {

// checksum_add adds `octets`, read as big-endian 16-bit words (an odd last octet is padded with
// zero), to the running sum. Only the last piece of a sum may have an odd length.
std::uint64_t checksum_add(std::uint64_t sum, std::span<const std::uint8_t> octets);

// checksum_fold folds a running sum to 16 bits, not yet complemented.
constexpr std::uint16_t checksum_fold(std::uint64_t sum) {
  sum = (sum & 0xffff'ffff) + (sum >> 32);  // at most 33 bits
  sum = (sum & 0xffff) + (sum >> 16);       // at most 18
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(sum);
}

// pseudo_header_sum is the sum of the pseudo header for the packet whose IP header starts at `ip`
// (family 4 or 6), for an L4 packet of `l4_length` octets.
std::uint64_t pseudo_header_sum(std::span<const std::uint8_t> ip, unsigned family,
                                std::uint8_t protocol, std::uint32_t l4_length);

}  // namespace psp::wire
