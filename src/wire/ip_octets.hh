// SPDX-License-Identifier: Apache-2.0
//
// Where the fields of IP and UDP headers lie (RFC 791, 8200, 768), and the few writers that
// transport and tunnel mode share. Offsets and no structs: a header may begin at any address. No
// function here checks a length; parse_ip of packet.hh comes first. write_udp leaves the UDP
// checksum 0, which every PSP receiver takes; the sender of datapath/tx_path.cc writes its own
// header.
#pragma once

#include <cstddef>
#include <cstdint>

#include "wire/bytes.hh"
#include "wire/packet.hh"

namespace psp::wire {

// IPv4 header (RFC 791).
inline constexpr std::size_t kIpv4TosAt = 1;
inline constexpr std::size_t kIpv4TotalLengthAt = 2;
inline constexpr std::size_t kIpv4IdentificationAt = 4;
inline constexpr std::size_t kIpv4FragmentAt = 6;
inline constexpr std::size_t kIpv4TtlAt = 8;  // one 16-bit word with the protocol
inline constexpr std::size_t kIpv4ProtocolAt = 9;
inline constexpr std::size_t kIpv4ChecksumAt = 10;
inline constexpr std::size_t kIpv4AddressesAt = 12;
inline constexpr std::uint16_t kMoreFragmentsOrOffset = 0x3fff;
inline constexpr std::uint16_t kDontFragment = 0x4000;

// IPv6 header (RFC 8200).
inline constexpr std::size_t kIpv6PayloadLengthAt = 4;
inline constexpr std::size_t kIpv6NextHeaderAt = 6;
inline constexpr std::size_t kIpv6HopLimitAt = 7;
inline constexpr std::size_t kIpv6AddressesAt = 8;
inline constexpr std::uint8_t kIpv6HopByHop = 0;
inline constexpr std::uint8_t kIpv6Routing = 43;
inline constexpr std::uint8_t kIpv6FragmentHeader = 44;

// UDP header (RFC 768).
inline constexpr std::size_t kUdpDestinationAt = 2;
inline constexpr std::size_t kUdpLengthAt = 4;

inline constexpr std::size_t kMaxLengthField = 65535;

inline void write_udp(std::uint8_t* udp, std::uint16_t source_port, std::size_t length) {
  store_be(udp, source_port);
  store_be(udp + kUdpDestinationAt, kUdpPort);
  store_be(udp + kUdpLengthAt, static_cast<std::uint16_t>(length));
  store_be(udp + kUdpChecksumAt, std::uint16_t{0});
}

inline void fill_header(PspHeader& header, const EncapOptions& options, std::uint8_t next_header) {
  header.next_header = next_header;
  header.ext_length = options.cookie ? 2 : 1;
  if (encrypts(options.version)) header.crypt_offset = options.crypt_offset;
  header.version_number = static_cast<std::uint8_t>(options.version);
  header.cookie = options.cookie;
  header.spi = options.spi;
  header.iv = options.iv;
}

}  // namespace psp::wire
