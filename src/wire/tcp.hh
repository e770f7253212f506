// SPDX-License-Identifier: Apache-2.0
//
// What is looked at of a TCP header (RFC 9293, section 3.1): where its fields lie, its flags, its
// length. Flags are those of constants.h, which the BPF programs have too. The length is said by
// the header itself, so whoever opens a packet asks is_tcp_segment before anything else: authentic
// content need not be TCP. Options are nobody's business here; they travel as they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "wire/constants.h"

namespace psp {

inline constexpr std::size_t kMinTcpHeader = 20;
inline constexpr std::size_t kMaxTcpHeader = 60;
inline constexpr std::size_t kTcpSeqAt = 4;
inline constexpr std::size_t kTcpAckAt = 8;
inline constexpr std::size_t kTcpOffsetAt = 12;
inline constexpr std::size_t kTcpFlagsAt = 13;
inline constexpr std::size_t kTcpWindowAt = 14;
inline constexpr std::size_t kTcpChecksumAt = 16;
inline constexpr std::size_t kTcpUrgentAt = 18;
inline constexpr std::uint8_t kTcpFin = PSP_TCP_FLAG_FIN;
inline constexpr std::uint8_t kTcpSyn = PSP_TCP_FLAG_SYN;
inline constexpr std::uint8_t kTcpRst = PSP_TCP_FLAG_RST;
inline constexpr std::uint8_t kTcpPsh = PSP_TCP_FLAG_PSH;
inline constexpr std::uint8_t kTcpAck = PSP_TCP_FLAG_ACK;
inline constexpr std::uint8_t kTcpUrg = PSP_TCP_FLAG_URG;
inline constexpr std::uint8_t kTcpCwr = PSP_TCP_FLAG_CWR;

namespace wire {

// tcp_header_length is that with options, as the header says; 60 at the most.
constexpr std::size_t tcp_header_length(const std::uint8_t* header) {
  return std::size_t{header[kTcpOffsetAt]} / 16 * 4;
}

// is_tcp_segment: a TCP header is there, whole with its options; what follows is payload.
constexpr bool is_tcp_segment(std::span<const std::uint8_t> octets) {
  if (octets.size() < kMinTcpHeader) return false;
  const std::size_t length = tcp_header_length(octets.data());
  return length >= kMinTcpHeader && length <= octets.size();
}

}  // namespace wire
}  // namespace psp
