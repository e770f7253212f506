// SPDX-License-Identifier: Apache-2.0
//
// IP and UDP around PSP: what is read of an IP header, where the parts of a PSP packet lie, and the
// outer headers of a packet to be sealed. A receiver checks, in this order: IP header and its
// length, UDP and its port, that the lengths agree, the PSP header. Everything here is pure.
#include <cstring>

#include "wire/checksum.hh"

#include "ip_octets.hh"
#include "read_header.hh"

namespace psp::wire {
namespace {

// The read_* functions fill in their result where it will stay and return why not, or nothing; see
// read_header.hh for the reason.

inline std::optional<Drop> read_ipv4(std::span<const std::uint8_t> packet, IpHeader& ip) {
  if (packet.size() < kIpv4Header) return Drop::TRUNCATED;
  const std::uint8_t* octets = packet.data();
  ip.family = 4;
  ip.protocol = octets[kIpv4ProtocolAt];
  ip.header_length = static_cast<std::uint16_t>((octets[0] & 0x0f) * 4);
  ip.total_length = load_be<std::uint16_t>(octets + kIpv4TotalLengthAt);
  ip.fragment = load_be<std::uint16_t>(octets + kIpv4FragmentAt) & kMoreFragmentsOrOffset;
  if (ip.header_length < kIpv4Header) return Drop::BAD_IP;
  if (ip.header_length > packet.size()) return Drop::TRUNCATED;
  if (ip.total_length < ip.header_length || ip.total_length > packet.size())
    return Drop::BAD_LENGTH;
  return std::nullopt;
}

inline std::optional<Drop> read_ipv6(std::span<const std::uint8_t> packet, IpHeader& ip) {
  if (packet.size() < kIpv6Header) return Drop::TRUNCATED;
  const std::uint8_t* octets = packet.data();
  ip.family = 6;
  ip.protocol = octets[kIpv6NextHeaderAt];
  ip.header_length = kIpv6Header;
  ip.total_length =
      std::uint32_t{kIpv6Header} + load_be<std::uint16_t>(octets + kIpv6PayloadLengthAt);
  ip.fragment = ip.protocol == kIpv6FragmentHeader;
  if (ip.total_length > packet.size()) return Drop::BAD_LENGTH;
  return std::nullopt;
}

inline std::optional<Drop> read_ip(std::span<const std::uint8_t> packet, IpHeader& ip) {
  if (packet.empty()) return Drop::TRUNCATED;
  switch (packet[0] >> 4) {
    case 4:
      return read_ipv4(packet, ip);
    case 6:
      return read_ipv6(packet, ip);
    default:
      return Drop::BAD_IP;
  }
}

// header_sum is the one's complement sum of an IPv4 header, whose length is a multiple of 4.
inline std::uint64_t header_sum(const std::uint8_t* octets, std::size_t length) {
  const auto word = [octets](std::size_t at) -> std::uint64_t {
    return load_be<std::uint32_t>(octets + at);
  };
  std::uint64_t sum = word(0) + word(4) + word(8) + word(12) + word(16);
  for (std::size_t at = kIpv4Header; at < length; at += 4) sum += word(at);  // options
  return sum;
}

inline bool header_checksum_holds(const std::uint8_t* octets, const IpHeader& ip) {
  return ip.family != 4 || checksum_fold(header_sum(octets, ip.header_length)) == 0xffff;
}

// write_ipv4 writes what differs from the header at `from`, which is the same memory as `to` or was
// copied there. It reads only `from`, and before it writes: reading back what was just written in
// other widths would wait for the stores.
inline void write_ipv4(std::uint8_t* to, const std::uint8_t* from, std::size_t header_length,
                       std::uint16_t total_length, std::uint8_t protocol) {
  const auto word = [from](std::size_t at) { return load_be<std::uint16_t>(from + at); };
  const auto ttl_and_protocol = static_cast<std::uint16_t>((word(kIpv4TtlAt) & 0xff00) | protocol);
  // Taking a word out of a one's complement sum is adding its complement.
  std::uint64_t sum = header_sum(from, header_length);
  sum += 0xffff - word(kIpv4ChecksumAt);
  sum += 0xffff - word(kIpv4TotalLengthAt) + total_length;
  sum += 0xffff - word(kIpv4TtlAt) + ttl_and_protocol;
  store_be(to + kIpv4TotalLengthAt, total_length);
  store_be(to + kIpv4TtlAt, ttl_and_protocol);
  store_be(to + kIpv4ChecksumAt, static_cast<std::uint16_t>(~checksum_fold(sum)));
}

inline void write_ip(std::uint8_t* to, const std::uint8_t* from, const IpHeader& ip,
                     std::size_t payload_length, std::uint8_t protocol) {
  if (ip.family == 4) {
    const auto total_length = static_cast<std::uint16_t>(ip.header_length + payload_length);
    write_ipv4(to, from, ip.header_length, total_length, protocol);
  } else {
    store_be(to + kIpv6PayloadLengthAt, static_cast<std::uint16_t>(payload_length));
    to[kIpv6NextHeaderAt] = protocol;
  }
}

// copy_ip_header is a copy with the two lengths that occur spelled out.
inline void copy_ip_header(std::uint8_t* to, const std::uint8_t* from, std::size_t length) {
  if (length == kIpv4Header)
    std::memcpy(to, from, kIpv4Header);
  else if (length == kIpv6Header)
    std::memcpy(to, from, kIpv6Header);
  else
    std::memcpy(to, from, length);
}

std::optional<Drop> read_packet(std::span<const std::uint8_t> packet, PspPacket& psp) {
  if (const auto refused = read_ip(packet, psp.ip)) return refused;
  const std::size_t ip_header = psp.ip.header_length;
  const std::size_t ip_payload = psp.ip.total_length - ip_header;
  if (psp.ip.fragment) return Drop::FRAGMENT;
  if (psp.ip.protocol != kProtocolUdp) return Drop::BAD_IP;
  if (ip_payload < kUdpHeader) return Drop::TRUNCATED;
  const std::uint8_t* udp = packet.data() + ip_header;
  if (load_be<std::uint16_t>(udp + kUdpDestinationAt) != kUdpPort ||
      !header_checksum_holds(packet.data(), psp.ip))
    return Drop::BAD_IP;
  if (load_be<std::uint16_t>(udp + kUdpLengthAt) != ip_payload) return Drop::BAD_LENGTH;

  psp.psp_offset = ip_header + kUdpHeader;
  const auto datagram = packet.subspan(psp.psp_offset, ip_payload - kUdpHeader);
  if (const auto refused = read_header(datagram, psp.header)) return refused;
  psp.inner_offset = psp.psp_offset + psp.header.size();
  psp.icv_offset = psp.psp_offset + datagram.size() - kIcv;
  return std::nullopt;
}

// is_for_the_path: the IPv6 extension header behind the fixed one is meant for routers, which could
// not read it any more behind a PSP header.
inline bool is_for_the_path(const IpHeader& ip) {
  return ip.family == 6 && (ip.protocol == kIpv6HopByHop || ip.protocol == kIpv6Routing);
}

std::optional<Drop> write_outer_headers(std::span<const std::uint8_t> clear,
                                        const EncapOptions& options, std::span<std::uint8_t> out,
                                        PspPacket& psp) {
  if (const auto refused = read_ip(clear, psp.ip)) return refused;
  if (psp.ip.fragment || is_for_the_path(psp.ip)) return Drop::TX_BAD_PACKET;
  const std::size_t ip_header = psp.ip.header_length;
  const std::size_t inner_size = psp.ip.total_length - ip_header;
  fill_header(psp.header, options, psp.ip.protocol);
  if (psp.header.crypt_offset.octets() > psp.header.size() - kPspBaseHeader + inner_size)
    return Drop::BAD_CRYPT_OFFSET;
  const std::size_t ip_payload = kUdpHeader + psp.header.size() + inner_size + kIcv;
  const std::size_t total_length = ip_header + ip_payload;
  if ((psp.ip.family == 4 ? total_length : ip_payload) > kMaxLengthField) return Drop::TX_TOO_BIG;
  if (total_length > out.size()) return Drop::TX_BAD_PACKET;

  copy_ip_header(out.data(), clear.data(), ip_header);
  write_ip(out.data(), clear.data(), psp.ip, ip_payload, kProtocolUdp);
  write_udp(out.data() + ip_header, options.source_port, ip_payload);
  psp.psp_offset = ip_header + kUdpHeader;
  psp.inner_offset = psp.psp_offset + write_header(out.subspan(psp.psp_offset), psp.header);
  psp.icv_offset = total_length - kIcv;
  psp.ip.protocol = kProtocolUdp;
  psp.ip.total_length = static_cast<std::uint32_t>(total_length);
  return std::nullopt;
}

}  // namespace

std::expected<IpHeader, Drop> parse_ip(std::span<const std::uint8_t> packet) {
  std::expected<IpHeader, Drop> ip;
  if (const auto refused = read_ip(packet, *ip)) ip = std::unexpected(*refused);
  return ip;
}

void set_ip_payload(std::span<std::uint8_t> packet, const IpHeader& ip, std::size_t payload_length,
                    std::uint8_t protocol) {
  write_ip(packet.data(), packet.data(), ip, payload_length, protocol);
}

std::expected<PspPacket, Drop> parse_packet(std::span<const std::uint8_t> packet) {
  std::expected<PspPacket, Drop> psp;
  if (const auto refused = read_packet(packet, *psp)) psp = std::unexpected(*refused);
  return psp;
}

std::expected<PspPacket, Drop> write_outer(std::span<const std::uint8_t> clear,
                                           const EncapOptions& options,
                                           std::span<std::uint8_t> out) {
  std::expected<PspPacket, Drop> psp;
  if (const auto refused = write_outer_headers(clear, options, out, *psp))
    psp = std::unexpected(*refused);
  return psp;
}

}  // namespace psp::wire
