// SPDX-License-Identifier: Apache-2.0
//
// Tunnel mode: the outer header of a packet on its way in, what is looked at on its way out. The
// choices are listed in tunnel.hh, the reasons in docs/protocol.md, section 10. Everything here is
// pure. For ECN an outer CE must never be lost: an inner packet that cannot carry it is dropped
// (RFC 6040, section 4.2). The inner IPv4 checksum is corrected, not computed anew (RFC 1624): a
// header that was damaged before stays so. Used by crypto/seal.cc; pspd sends transport mode only.
#include "wire/tunnel.hh"

#include <cstring>

#include "wire/checksum.hh"

#include "ip_octets.hh"

namespace psp::wire {
namespace {

constexpr std::uint8_t kEcnMask = 0x03;
constexpr unsigned kDscpShift = 2;
constexpr std::uint32_t kFlowLabelMask = 0xfffff;

// first_word is version, traffic class and flow label of an IPv6 header.
std::uint32_t first_word(const std::uint8_t* ip) { return load_be<std::uint32_t>(ip); }

std::uint8_t traffic_class_of(const std::uint8_t* ip) {
  return ip[0] >> 4 == 4 ? ip[kIpv4TosAt] : static_cast<std::uint8_t>(first_word(ip) >> 20);
}

void copy_of_inner(OuterIp& outer, const std::uint8_t* ip, std::uint8_t family) {
  outer.endpoints.family = family;
  const std::size_t size = family == 4 ? 4 : 16;
  const std::uint8_t* addresses = ip + (family == 4 ? kIpv4AddressesAt : kIpv6AddressesAt);
  std::memcpy(outer.endpoints.source.data(), addresses, size);
  std::memcpy(outer.endpoints.destination.data(), addresses + size, size);
  outer.traffic_class = traffic_class_of(ip);
  if (family == 4) {
    outer.hop_limit = ip[kIpv4TtlAt];
    outer.identification = load_be<std::uint16_t>(ip + kIpv4IdentificationAt);
    outer.fragment_control = load_be<std::uint16_t>(ip + kIpv4FragmentAt) & kDontFragment;
  } else {
    outer.hop_limit = ip[kIpv6HopLimitAt];
    outer.flow_label = first_word(ip) & kFlowLabelMask;
    outer.fragment_control = kDontFragment;  // if it goes into IPv4
  }
}

void write_outer_ipv4(std::uint8_t* to, const OuterIp& outer, std::size_t ip_payload) {
  to[0] = 0x45;
  to[kIpv4TosAt] = outer.traffic_class;
  store_be(to + kIpv4TotalLengthAt, static_cast<std::uint16_t>(kIpv4Header + ip_payload));
  store_be(to + kIpv4IdentificationAt, outer.identification);
  store_be(to + kIpv4FragmentAt,
           static_cast<std::uint16_t>(outer.fragment_control & kDontFragment));
  to[kIpv4TtlAt] = outer.hop_limit;
  to[kIpv4ProtocolAt] = kProtocolUdp;
  store_be(to + kIpv4ChecksumAt, std::uint16_t{0});
  std::memcpy(to + kIpv4AddressesAt, outer.endpoints.source.data(), 4);
  std::memcpy(to + kIpv4AddressesAt + 4, outer.endpoints.destination.data(), 4);
  const std::uint64_t sum = checksum_add(0, {to, kIpv4Header});
  store_be(to + kIpv4ChecksumAt, static_cast<std::uint16_t>(~checksum_fold(sum)));
}

void write_outer_ipv6(std::uint8_t* to, const OuterIp& outer, std::size_t ip_payload) {
  store_be(to, 6u << 28 | std::uint32_t{outer.traffic_class} << 20 |
                   (outer.flow_label & kFlowLabelMask));
  store_be(to + kIpv6PayloadLengthAt, static_cast<std::uint16_t>(ip_payload));
  to[kIpv6NextHeaderAt] = kProtocolUdp;
  to[kIpv6HopLimitAt] = outer.hop_limit;
  std::memcpy(to + kIpv6AddressesAt, outer.endpoints.source.data(), 16);
  std::memcpy(to + kIpv6AddressesAt + 16, outer.endpoints.destination.data(), 16);
}

}  // namespace

std::expected<OuterIp, Drop> outer_ip_of(std::span<const std::uint8_t> clear,
                                         const TunnelPolicy& policy) {
  const auto ip = parse_ip(clear);
  if (!ip) return std::unexpected(ip.error());
  OuterIp outer;
  copy_of_inner(outer, clear.data(), ip->family);
  if (policy.endpoints) outer.endpoints = *policy.endpoints;
  if (policy.hop_limit) outer.hop_limit = *policy.hop_limit;
  if (policy.dscp)
    outer.traffic_class =
        static_cast<std::uint8_t>(*policy.dscp << kDscpShift | (outer.traffic_class & kEcnMask));
  if (!policy.copy_ecn) outer.traffic_class &= static_cast<std::uint8_t>(~kEcnMask);
  return outer;
}

std::expected<PspPacket, Drop> write_tunnel_outer(std::span<const std::uint8_t> clear,
                                                  const EncapOptions& options, const OuterIp& outer,
                                                  std::span<std::uint8_t> out) {
  const auto inner = parse_ip(clear);
  if (!inner) return std::unexpected(inner.error());
  std::expected<PspPacket, Drop> psp;
  fill_header(psp->header, options, inner->family == 4 ? kProtocolIpv4 : kProtocolIpv6);
  const std::size_t extension = psp->header.size() - kPspBaseHeader;
  if (psp->header.crypt_offset.octets() > extension + inner->total_length)
    return std::unexpected(Drop::BAD_CRYPT_OFFSET);
  const std::size_t ip_header = outer.header_length();
  const std::size_t ip_payload = kUdpHeader + psp->header.size() + inner->total_length + kIcv;
  const std::size_t total_length = ip_header + ip_payload;
  if ((ip_header == kIpv4Header ? total_length : ip_payload) > kMaxLengthField)
    return std::unexpected(Drop::TX_TOO_BIG);
  if (total_length > out.size()) return std::unexpected(Drop::TX_BAD_PACKET);

  if (outer.endpoints.family == 4)
    write_outer_ipv4(out.data(), outer, ip_payload);
  else
    write_outer_ipv6(out.data(), outer, ip_payload);
  write_udp(out.data() + ip_header, options.source_port, ip_payload);
  psp->ip = {.family = outer.endpoints.family,
             .protocol = kProtocolUdp,
             .header_length = static_cast<std::uint16_t>(ip_header),
             .total_length = static_cast<std::uint32_t>(total_length)};
  psp->psp_offset = ip_header + kUdpHeader;
  psp->inner_offset = psp->psp_offset + write_header(out.subspan(psp->psp_offset), psp->header);
  psp->icv_offset = total_length - kIcv;
  return psp;
}

std::optional<Drop> check_inner(std::span<const std::uint8_t> inner, std::uint8_t next_header) {
  const auto ip = parse_ip(inner);
  const std::uint8_t family = next_header == kProtocolIpv4 ? 4 : 6;
  if (!ip || ip->family != family || ip->total_length != inner.size()) return Drop::BAD_INNER;
  return std::nullopt;
}

std::optional<std::uint8_t> merged_ecn(std::uint8_t inner, std::uint8_t outer) {
  constexpr std::uint8_t kDropIt = 0xff;
  constexpr std::uint8_t table[4][4] = {
      /* inner      outer Not-ECT  ECT(1)   ECT(0)   CE */
      /* Not-ECT */ {kNotEct, kNotEct, kNotEct, kDropIt},
      /* ECT(1)  */ {kEct1, kEct1, kEct1, kCe},
      /* ECT(0)  */ {kEct0, kEct1, kEct0, kCe},
      /* CE      */ {kCe, kCe, kCe, kCe},
  };
  const std::uint8_t merged = table[inner & kEcnMask][outer & kEcnMask];
  if (merged == kDropIt) return std::nullopt;
  return merged;
}

std::optional<Drop> merge_ecn(std::span<std::uint8_t> inner, std::span<const std::uint8_t> outer) {
  std::uint8_t* ip = inner.data();
  const std::uint8_t before = traffic_class_of(ip);
  const auto ecn = merged_ecn(before, traffic_class_of(outer.data()));
  if (!ecn) return Drop::BAD_ECN;
  const auto after = static_cast<std::uint8_t>((before & ~kEcnMask) | *ecn);
  if (after == before) return std::nullopt;
  if (ip[0] >> 4 == 4) {
    // RFC 1624: the checksum of a header that was damaged before stays wrong.
    const std::uint32_t sum =
        std::uint32_t{static_cast<std::uint16_t>(~load_be<std::uint16_t>(ip + kIpv4ChecksumAt))} +
        (0xffffu - before) + after;
    ip[kIpv4TosAt] = after;
    store_be(ip + kIpv4ChecksumAt, static_cast<std::uint16_t>(~checksum_fold(sum)));
  } else {
    store_be(ip, (first_word(ip) & 0xf00f'ffffu) | std::uint32_t{after} << 20);
  }
  return std::nullopt;
}

}  // namespace psp::wire
