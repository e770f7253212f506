// SPDX-License-Identifier: Apache-2.0
//
// Checksums, only where the whole packet is there and there is one. A fragment has none that could
// be checked: the sum is over all of them.
//
// A sum that is only that of the pseudo-header was left to the network card: the capture was taken
// on the host that sent it, before the card had it. That is not wrong on the wire, so it is told
// apart.
#include "checksums.hh"

#include "wire/bytes.hh"
#include "wire/checksum.hh"
#include "wire/tcp.hh"

namespace psp::pcap_tool {
Sum l4_checksum(std::span<const std::uint8_t> packet, const wire::IpHeader& ip) {
  if (ip.fragment) return Sum::kNone;
  const std::size_t size = ip.total_length - ip.header_length;
  const auto l4 = packet.subspan(ip.header_length, size);
  if (ip.protocol == wire::kProtocolUdp) {
    if (size < kUdpHeader || wire::load_be<std::uint16_t>(l4.data() + kUdpChecksumAt) == 0)
      return Sum::kNone;
  } else if (ip.protocol != wire::kProtocolTcp || size < kMinTcpHeader) {
    return Sum::kNone;
  }
  const auto pseudo =
      wire::pseudo_header_sum(packet, ip.family, ip.protocol, static_cast<std::uint32_t>(size));
  if (wire::checksum_fold(wire::checksum_add(pseudo, l4)) == 0xffff) return Sum::kGood;
  const std::size_t at = ip.protocol == wire::kProtocolUdp ? kUdpChecksumAt : kTcpChecksumAt;
  const bool begun = wire::load_be<std::uint16_t>(l4.data() + at) == wire::checksum_fold(pseudo);
  return begun ? Sum::kIncomplete : Sum::kWrong;
}

Sum ip_checksum(std::span<const std::uint8_t> packet, const wire::IpHeader& ip) {
  if (ip.family != 4) return Sum::kNone;
  const auto sum = wire::checksum_add(0, packet.first(ip.header_length));
  return wire::checksum_fold(sum) == 0xffff ? Sum::kGood : Sum::kWrong;
}

}  // namespace psp::pcap_tool
