// SPDX-License-Identifier: Apache-2.0
//
// Parsing of frames on the TAP. Everything is bounds-checked: the kernel is trusted to have sent
// the frame, not to have sent what the tag says. Whether the handle in a tag is anybody's, the Tx
// table knows. What this parser cannot read to its TCP header is not sent. It also takes off the IP
// options by which pspd lowers the MSS (docs/architecture.md, "MSS").
#include "frame.hh"

#include <algorithm>

#include "wire/ip_octets.hh"

namespace psp::datapath {
namespace {

constexpr std::uint8_t kOptionNop = 1;

bool is_tx_tag(std::uint8_t kind) {
  return kind == PSP_FRAME_SEAL || kind == PSP_FRAME_SPAN || kind == PSP_FRAME_CLEAR;
}

bool is_psp_port(std::span<const std::uint8_t> frame, std::size_t udp_at) {
  return frame.size() >= udp_at + kUdpHeader &&
         wire::load_be<std::uint16_t>(frame.data() + udp_at + wire::kUdpDestinationAt) == kUdpPort;
}

FrameKind classify_udp(std::span<const std::uint8_t> frame, std::size_t udp_at) {
  return is_psp_port(frame, udp_at) ? FrameKind::kRx : FrameKind::kOther;
}

// strip_reservation takes pspd's own options off an IPv4 header: 40 octets of NOP. IPv6 packets of
// a socket with the reservation do not carry it, their tag says so.
void strip_reservation(std::span<const std::uint8_t> packet, TcpFrame& tcp) {
  if (tcp.ip.family != 4 || tcp.ip.header_length != kIpv4Header + kMssReservation) return;
  const auto options = packet.subspan(kIpv4Header, kMssReservation);
  if (!std::ranges::all_of(options, [](std::uint8_t o) { return o == kOptionNop; })) return;
  tcp.reserved = true;
  tcp.ip.header_length = kIpv4Header;
}

bool gso_fits(const TcpFrame& tcp) {
  if (!tcp.is_gso()) return true;
  const std::uint8_t type = tcp.vnet.gso_type & static_cast<std::uint8_t>(~kGsoEcn);
  return type == (tcp.ip.family == 4 ? kGsoTcp4 : kGsoTcp6) && tcp.vnet.gso_size != 0;
}

}  // namespace

FrameKind classify(std::span<const std::uint8_t> frame) {
  if (frame.size() < kIpAt + kIpv4Header) return FrameKind::kOther;
  const std::uint8_t* ip = frame.data() + kIpAt;
  const bool tagged = is_tx_tag(frame[kTagAt]);
  switch (wire::load_be<std::uint16_t>(frame.data() + kEthertypeAt)) {
    case kEthertypeIpv4: {
      const std::uint8_t protocol = ip[wire::kIpv4ProtocolAt];
      if (protocol == wire::kProtocolTcp) return tagged ? FrameKind::kTx : FrameKind::kOther;
      if (protocol != wire::kProtocolUdp) return FrameKind::kOther;
      const bool later_fragment = wire::load_be<std::uint16_t>(ip + wire::kIpv4FragmentAt) & 0x1fff;
      if (later_fragment) return FrameKind::kRx;
      return classify_udp(frame, kIpAt + std::size_t{ip[0] & 0x0fu} * 4);
    }
    case kEthertypeIpv6: {
      if (frame.size() < kIpAt + kIpv6Header) return FrameKind::kOther;
      const std::uint8_t next = ip[wire::kIpv6NextHeaderAt];
      if (next == wire::kProtocolUdp) return classify_udp(frame, kIpAt + kIpv6Header);
      if (next == wire::kIpv6FragmentHeader) return FrameKind::kRx;
      return tagged && next == wire::kProtocolTcp ? FrameKind::kTx : FrameKind::kOther;
    }
    default:
      return FrameKind::kOther;
  }
}

std::expected<TcpFrame, Drop> parse_tcp_frame(std::span<const std::uint8_t> frame) {
  const auto bad = std::unexpected(Drop::TX_BAD_PACKET);
  if (frame.size() < kIpAt) return bad;
  const auto packet = frame.subspan(kIpAt);
  const auto ip = wire::parse_ip(packet);
  if (!ip || ip->fragment) return bad;
  const std::size_t end = kIpAt + ip->total_length;

  TcpFrame tcp;
  tcp.vnet = load_vnet(frame.data());
  tcp.ip = *ip;
  tcp.tcp_at = kIpAt + tcp.ip.header_length;
  const std::uint8_t flags = load_tag(frame.data()).info;
  tcp.reserved = flags & PSP_FRAME_F_MSS_RESERVED;
  tcp.cut = flags & PSP_FRAME_F_CUT;
  tcp.again = flags & PSP_FRAME_F_AGAIN;
  strip_reservation(packet, tcp);
  if (tcp.ip.protocol != wire::kProtocolTcp || end < tcp.tcp_at ||
      !wire::is_tcp_segment(frame.subspan(tcp.tcp_at, end - tcp.tcp_at)))
    return bad;
  const std::uint8_t* header = frame.data() + tcp.tcp_at;
  tcp.tcp_length = wire::tcp_header_length(header);
  tcp.payload_at = tcp.tcp_at + tcp.tcp_length;
  tcp.flags = header[kTcpFlagsAt];
  tcp.sequence = wire::load_be<std::uint32_t>(header + kTcpSeqAt);
  tcp.payload_length = end - tcp.payload_at;
  if (!gso_fits(tcp)) return bad;
  return tcp;
}

void copy_ip_header(std::span<const std::uint8_t> frame, const TcpFrame& tcp, std::uint8_t* out) {
  std::memcpy(out, frame.data() + kIpAt, tcp.ip.header_length);
  if (tcp.ip.family == 4) {
    out[0] = static_cast<std::uint8_t>(0x40 | tcp.ip.header_length / 4);
  }
}

bool same_outer(const std::uint8_t* a, const std::uint8_t* b, unsigned family,
                std::size_t header_length) {
  if (family == 6)  // all but the payload length at 4
    return std::memcmp(a, b, 4) == 0 && std::memcmp(a + 6, b + 6, kIpv6Header - 6) == 0;
  return std::memcmp(a, b, 2) == 0 && std::memcmp(a + 6, b + 6, 4) == 0 &&
         std::memcmp(a + 12, b + 12, header_length - 12) == 0;
}

}  // namespace psp::datapath
