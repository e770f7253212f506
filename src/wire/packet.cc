// SPDX-License-Identifier: Apache-2.0
//
// IP and UDP around PSP: what is read of an IP header, where the parts of a PSP packet lie, and the
// outer headers of a packet to be sealed. A receiver checks, in this order: IP header and its
// length, UDP and its port, that the lengths agree, the PSP header. Everything here is pure.
#include <cstring>

#include <psp/wire/bytes.hh>
#include <psp/wire/checksum.hh>
#include <psp/wire/packet.hh>

namespace psp::wire {
namespace {

// IPv4 header (RFC 791).
constexpr std::size_t kIpv4TotalLengthAt = 2;
constexpr std::size_t kIpv4FragmentAt = 6;
constexpr std::size_t kIpv4ProtocolAt = 9;
constexpr std::size_t kIpv4ChecksumAt = 10;
constexpr std::uint16_t kMoreFragmentsOrOffset = 0x3fff;

// IPv6 header (RFC 8200).
constexpr std::size_t kIpv6PayloadLengthAt = 4;
constexpr std::size_t kIpv6NextHeaderAt = 6;
constexpr std::uint8_t kIpv6FragmentHeader = 44;

// UDP header (RFC 768).
constexpr std::size_t kUdpDestinationAt = 2;
constexpr std::size_t kUdpLengthAt = 4;
constexpr std::size_t kUdpChecksumAt = 6;

constexpr std::size_t kMaxLengthField = 65535;

std::expected<IpHeader, Drop> parse_ipv4(std::span<const std::uint8_t> packet) {
  if (packet.size() < kIpv4Header) return std::unexpected(Drop::TRUNCATED);
  const std::uint8_t* octets = packet.data();
  IpHeader ip;
  ip.family = 4;
  ip.protocol = octets[kIpv4ProtocolAt];
  ip.header_length = static_cast<std::uint16_t>((octets[0] & 0x0f) * 4);
  ip.total_length = load_be<std::uint16_t>(octets + kIpv4TotalLengthAt);
  ip.fragment = load_be<std::uint16_t>(octets + kIpv4FragmentAt) & kMoreFragmentsOrOffset;
  if (ip.header_length < kIpv4Header) return std::unexpected(Drop::BAD_IP);
  if (ip.header_length > packet.size()) return std::unexpected(Drop::TRUNCATED);
  if (ip.total_length < ip.header_length || ip.total_length > packet.size())
    return std::unexpected(Drop::BAD_LENGTH);
  return ip;
}

std::expected<IpHeader, Drop> parse_ipv6(std::span<const std::uint8_t> packet) {
  if (packet.size() < kIpv6Header) return std::unexpected(Drop::TRUNCATED);
  const std::uint8_t* octets = packet.data();
  IpHeader ip;
  ip.family = 6;
  ip.protocol = octets[kIpv6NextHeaderAt];
  ip.header_length = kIpv6Header;
  ip.total_length =
      std::uint32_t{kIpv6Header} + load_be<std::uint16_t>(octets + kIpv6PayloadLengthAt);
  ip.fragment = ip.protocol == kIpv6FragmentHeader;
  if (ip.total_length > packet.size()) return std::unexpected(Drop::BAD_LENGTH);
  return ip;
}

bool header_checksum_holds(std::span<const std::uint8_t> packet, const IpHeader& ip) {
  return ip.family != 4 || checksum_fold(checksum_add(0, packet.first(ip.header_length))) == 0xffff;
}

PspHeader header_for(const EncapOptions& options, std::uint8_t next_header) {
  PspHeader header;
  header.next_header = next_header;
  header.ext_length = options.cookie ? 2 : 1;
  if (encrypts(options.version)) header.crypt_offset = options.crypt_offset;
  header.version_number = static_cast<std::uint8_t>(options.version);
  header.cookie = options.cookie;
  header.spi = options.spi;
  header.iv = options.iv;
  return header;
}

}  // namespace

std::expected<IpHeader, Drop> parse_ip(std::span<const std::uint8_t> packet) {
  if (packet.empty()) return std::unexpected(Drop::TRUNCATED);
  switch (packet[0] >> 4) {
    case 4:
      return parse_ipv4(packet);
    case 6:
      return parse_ipv6(packet);
    default:
      return std::unexpected(Drop::BAD_IP);
  }
}

void set_ip_payload(std::span<std::uint8_t> packet, const IpHeader& ip, std::size_t payload_length,
                    std::uint8_t protocol) {
  std::uint8_t* octets = packet.data();
  if (ip.family == 6) {
    store_be(octets + kIpv6PayloadLengthAt, static_cast<std::uint16_t>(payload_length));
    octets[kIpv6NextHeaderAt] = protocol;
    return;
  }
  const auto total_length = static_cast<std::uint16_t>(ip.header_length + payload_length);
  store_be(octets + kIpv4TotalLengthAt, total_length);
  octets[kIpv4ProtocolAt] = protocol;
  store_be(octets + kIpv4ChecksumAt, std::uint16_t{0});
  const std::uint16_t sum = checksum_fold(checksum_add(0, packet.first(ip.header_length)));
  store_be(octets + kIpv4ChecksumAt, static_cast<std::uint16_t>(~sum));
}

std::expected<PspPacket, Drop> parse_packet(std::span<const std::uint8_t> packet) {
  const auto ip = parse_ip(packet);
  if (!ip) return std::unexpected(ip.error());
  if (ip->fragment) return std::unexpected(Drop::FRAGMENT);
  if (ip->protocol != kProtocolUdp) return std::unexpected(Drop::BAD_IP);
  if (ip->total_length < ip->header_length + kUdpHeader) return std::unexpected(Drop::TRUNCATED);
  const std::uint8_t* udp = packet.data() + ip->header_length;
  if (load_be<std::uint16_t>(udp + kUdpDestinationAt) != kUdpPort ||
      !header_checksum_holds(packet, *ip))
    return std::unexpected(Drop::BAD_IP);
  if (load_be<std::uint16_t>(udp + kUdpLengthAt) != ip->total_length - ip->header_length)
    return std::unexpected(Drop::BAD_LENGTH);

  PspPacket psp;
  psp.ip = *ip;
  psp.psp_offset = ip->header_length + kUdpHeader;
  const auto header =
      parse_header(packet.subspan(psp.psp_offset, ip->total_length - psp.psp_offset));
  if (!header) return std::unexpected(header.error());
  psp.header = *header;
  psp.inner_offset = psp.psp_offset + header->size();
  psp.icv_offset = ip->total_length - kIcv;
  return psp;
}

std::expected<PspPacket, Drop> write_outer(std::span<const std::uint8_t> clear,
                                           const EncapOptions& options,
                                           std::span<std::uint8_t> out) {
  const auto ip = parse_ip(clear);
  if (!ip) return std::unexpected(ip.error());
  if (ip->fragment) return std::unexpected(Drop::TX_BAD_PACKET);
  PspPacket psp;
  psp.ip = *ip;
  psp.header = header_for(options, ip->protocol);
  const std::size_t inner_size = ip->total_length - ip->header_length;
  if (psp.header.crypt_offset.octets() > psp.header.size() - kPspBaseHeader + inner_size)
    return std::unexpected(Drop::BAD_CRYPT_OFFSET);
  const std::size_t ip_payload = kUdpHeader + psp.header.size() + inner_size + kIcv;
  const std::size_t total_length = ip->header_length + ip_payload;
  if ((ip->family == 4 ? total_length : ip_payload) > kMaxLengthField)
    return std::unexpected(Drop::TX_TOO_BIG);
  if (total_length > out.size()) return std::unexpected(Drop::TX_BAD_PACKET);

  std::memcpy(out.data(), clear.data(), ip->header_length);
  set_ip_payload(out, *ip, ip_payload, kProtocolUdp);
  std::uint8_t* udp = out.data() + ip->header_length;
  store_be(udp, options.source_port);
  store_be(udp + kUdpDestinationAt, kUdpPort);
  store_be(udp + kUdpLengthAt, static_cast<std::uint16_t>(ip_payload));
  store_be(udp + kUdpChecksumAt, std::uint16_t{0});

  psp.ip.protocol = kProtocolUdp;
  psp.ip.total_length = static_cast<std::uint32_t>(total_length);
  psp.psp_offset = ip->header_length + kUdpHeader;
  psp.inner_offset = psp.psp_offset + write_header(out.subspan(psp.psp_offset), psp.header);
  psp.icv_offset = total_length - kIcv;
  return psp;
}

}  // namespace psp::wire
