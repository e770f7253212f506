// SPDX-License-Identifier: Apache-2.0
//
// Frames, in the order in which a receiver checks: link layer, IP, UDP and port, lengths, PSP
// header, version, SPI, ICV, what is inside.
//
// With a configuration file of the reference all is done as the reference does it, bit for bit:
// what it passes over is passed over, and its source port is computed. Where it would make packets
// that are of no use, of a fragment or beyond 9014 octets, they are refused instead.
//
// A joined packet is taken apart only where it does not open as a whole: an attacker chooses what a
// payload looks like, and the ICV says what is one datagram.
#include "frames.hh"

#include <algorithm>
#include <fmt/format.h>

#include "pcap/joined.hh"
#include "wire/bytes.hh"
#include "wire/tunnel.hh"

namespace psp::pcap_tool {
namespace {

// kReferenceFrame is the most octets of a frame that the reference implementation takes or makes.
constexpr std::size_t kReferenceFrame = 9014;
constexpr std::string_view kCut = "cut short by the capture";

bool has_ports(std::uint8_t protocol) {
  return protocol == wire::kProtocolTcp || protocol == wire::kProtocolUdp;
}

// is_to_psp: UDP to port 1000 directly behind the IP header; of fragments the first shows it.
bool is_to_psp(std::span<const std::uint8_t> packet, const wire::IpHeader& ip) {
  if (ip.protocol != wire::kProtocolUdp || ip.total_length < ip.header_length + 4u) return false;
  const bool later = ip.family == 4 && (wire::load_be<std::uint16_t>(packet.data() + 6) & 0x1fff);
  return !later && wire::load_be<std::uint16_t>(packet.data() + ip.header_length + 2) == kUdpPort;
}

void find_psp(Frame& frame) {
  const auto psp = wire::parse_packet(frame.packet);
  if (psp)
    frame.psp = *psp;
  else
    frame.drop = psp.error();
}

// inner_ports is where the ports of a TCP or UDP packet stand; null if it has none.
const std::uint8_t* inner_ports(const Frame& frame) {
  const auto& ip = frame.ip;
  if (!has_ports(ip.protocol) || ip.fragment || ip.total_length < ip.header_length + 4u)
    return nullptr;
  return frame.packet.data() + ip.header_length;
}

// reference_port is the reference's choice of a UDP source port.
std::uint16_t reference_port(const Frame& frame) {
  const std::uint8_t* ports = inner_ports(frame);
  if (ports == nullptr) return kUdpPort;
  return wire::load_be<std::uint16_t>(ports) ^ wire::load_be<std::uint16_t>(ports + 2);
}

}  // namespace

Frame look(const pcap::Record& record, std::span<const std::uint8_t> octets, pcap::Reach reach) {
  Frame frame;
  frame.octets = record.packet(octets);
  const auto link = pcap::find_ip(record.link_type, frame.octets, reach);
  if (!link) {
    frame.what = link.error().understood ? Frame::What::kNotIp : Frame::What::kUnknown;
    frame.note = link.error().why;
    return frame;
  }
  frame.link = *link;
  frame.packet = frame.octets.subspan(link->ip_at);
  frame.what = Frame::What::kBroken;
  const auto ip = wire::parse_ip(frame.packet);
  if (ip && link->family != 0 && ip->family != link->family) {
    frame.drop = Drop::BAD_IP;
    return frame;
  }
  if (!ip) {
    frame.drop = ip.error();
    if (record.captured < record.original) frame.note = kCut;
    return frame;
  }
  frame.ip = *ip;
  if (!is_to_psp(frame.packet, *ip)) {
    frame.what = Frame::What::kOther;
    return frame;
  }
  frame.what = Frame::What::kPsp;
  find_psp(frame);
  return frame;
}

pcap::IpHost destination_of(const Frame& frame) {
  pcap::IpHost address{.family = frame.ip.family};
  if (frame.ip.family == 4)
    std::copy_n(frame.packet.data() + 16, 4, address.octets.begin());
  else
    std::copy_n(frame.packet.data() + 24, 16, address.octets.begin());
  return address;
}

bool Joined::find(const Frame& frame) {
  parts_ = 0;
  if (frame.what != Frame::What::kPsp || frame.drop) return false;
  whole_ = frame;
  payload_ = frame.packet.subspan(frame.psp.psp_offset,
                                  frame.psp.icv_offset + kIcv - frame.psp.psp_offset);
  stride_ = pcap::joined_stride(payload_);
  if (stride_ != 0) parts_ = (payload_.size() + stride_ - 1) / stride_;
  return stride_ != 0;
}

Frame Joined::datagram(std::size_t part) {
  constexpr std::size_t kIdAt = 4, kUdpLengthAt = 4;
  const std::size_t header = whole_.psp.psp_offset, at = part * stride_;
  packet_.clear();
  packet_.append(whole_.packet.first(header));
  packet_.append(payload_.subspan(at, std::min(stride_, payload_.size() - at)));
  std::uint8_t* ip = packet_.data();
  std::uint8_t* udp = ip + whole_.ip.header_length;
  const std::size_t size = packet_.size() - whole_.ip.header_length;
  if (whole_.ip.family == 4)  // segmentation counts it up
    wire::store_be(ip + kIdAt,
                   static_cast<std::uint16_t>(wire::load_be<std::uint16_t>(ip + kIdAt) + part));
  wire::set_ip_payload({ip, packet_.size()}, whole_.ip, size, wire::kProtocolUdp);
  wire::store_be(udp + kUdpLengthAt, static_cast<std::uint16_t>(size));
  Frame frame = whole_;
  frame.packet = packet_.span();
  frame.ip.total_length = static_cast<std::uint32_t>(packet_.size());
  frame.part = part;
  frame.parts = parts_;
  find_psp(frame);
  return frame;
}

Opener::Opened Opener::open(const Frame& frame, std::span<std::uint8_t> out) {
  Opened opened;
  opened.drop = frame.drop;
  if (frame.drop) return opened;
  const auto& header = frame.psp.header;
  const auto version = header.version();
  opened.drop = !version              ? Drop::BAD_VERSION
                : !header.spi.valid() ? Drop::BAD_SPI
                                      : Drop::UNKNOWN_KEY;
  if (!version || !header.spi.valid()) return opened;
  const auto candidates = keys_.find(*version, header.spi);
  const bool tunnel = wire::is_tunnel(header.next_header);
  const auto destination = candidates.size() > 1 || !candidates.empty()
                               ? std::optional(destination_of(frame))
                               : std::nullopt;
  bool tried = false;
  for (auto& candidate : candidates) {
    if (!keys_.fits(candidate.entry, *destination)) continue;
    tried = true;
    const auto size =
        tunnel ? crypto::open_tunnel_packet(*candidate.aead, frame.psp, frame.packet, out, ecn_)
               : crypto::open_packet(*candidate.aead, frame.psp, frame.packet, out);
    if (!size && size.error() == Drop::AUTH_FAIL) continue;
    opened.authentic = true;
    opened.entry = candidate.entry;
    opened.drop = size ? std::nullopt : std::optional(size.error());
    opened.size = size.value_or(0);
    return opened;
  }
  opened.no_key = !tried;
  if (tried)
    opened.drop = Drop::AUTH_FAIL;
  else
    opened.note = "no key for this SPI";
  return opened;
}

std::expected<Sealer, std::string> Sealer::make(
    const Options& options, const std::optional<pcap::Configuration::Sealing>& sealing,
    CaptureKeys& keys) {
  Sealer sealer;
  sealer.reference_ = sealing.has_value();
  if (sealing) {
    sealer.tunnel_ = sealing->tunnel;
    sealer.options_.version = sealing->version;
    sealer.options_.spi = sealing->spi;
    sealer.transport_offset_ = sealing->transport_offset;
    sealer.ipv4_offset_ = sealing->ipv4_offset;
    sealer.ipv6_offset_ = sealing->ipv6_offset;
    if (sealing->cookie) sealer.options_.cookie = 0;
  } else {
    sealer.tunnel_ = options.tunnel;
    sealer.options_.version = *options.version;
    sealer.options_.spi = {*options.spi};
    sealer.options_.cookie = options.cookie;
    sealer.transport_offset_ = sealer.ipv4_offset_ = sealer.ipv6_offset_ = options.crypt_offset;
    sealer.source_port_ = options.source_port;
    sealer.policy_ = options.policy;
  }
  sealer.options_.iv = options.first_iv;
  auto found = keys.make(sealer.options_.version, sealer.options_.spi);
  if (found.empty())
    return std::unexpected(fmt::format("no key for SPI {:08x} and {}", sealer.options_.spi.value,
                                       name(sealer.options_.version)));
  sealer.aead_ = std::move(found.front().aead);
  return sealer;
}

// refuse_as_reference: what the reference implementation leaves out although we would take it, and
// what it would make useless packets of.
std::optional<Sealer::Sealed> Sealer::refuse_as_reference(const Frame& frame) const {
  const auto& ip = frame.ip;
  if (!tunnel_ && ip.family == 6 && !has_ports(ip.protocol)) return Sealed{.skipped = true};
  const std::size_t offset = options_.crypt_offset.octets();
  const std::size_t payload = tunnel_ ? ip.total_length : ip.total_length - ip.header_length;
  if (offset > payload) return Sealed{.skipped = true};
  if (ip.family == 4 && ip.fragment)
    return Sealed{.drop = Drop::TX_BAD_PACKET, .note = "a fragment: nobody could open it"};
  const bool cookie = options_.cookie.has_value();
  const std::size_t sealed = tunnel_ ? wire::tunnel_size(ip.total_length, ip.family, cookie)
                                     : wire::sealed_size(ip.total_length, cookie);
  if (frame.link.head_size + sealed > kReferenceFrame)
    return Sealed{.drop = Drop::TX_TOO_BIG, .note = "more than the 9014 octets of the reference"};
  return std::nullopt;
}

std::expected<wire::PspPacket, Drop> Sealer::write_headers(const Frame& frame,
                                                           std::span<std::uint8_t> out,
                                                           std::uint8_t& family) const {
  if (!tunnel_) return wire::write_outer(frame.packet, options_, out);
  const auto outer = wire::outer_ip_of(frame.packet, policy_);
  family = outer->endpoints.family;  // look() has parsed the packet
  return wire::write_tunnel_outer(frame.packet, options_, *outer, out);
}

Sealer::Sealed Sealer::lay_out(const Frame& frame, std::span<std::uint8_t> out) {
  if (frame.what == Frame::What::kNotIp || frame.what == Frame::What::kUnknown)
    return {.skipped = true};
  if (frame.what == Frame::What::kBroken) return {.drop = frame.drop, .note = frame.note};
  options_.crypt_offset = !tunnel_               ? transport_offset_
                          : frame.ip.family == 4 ? ipv4_offset_
                                                 : ipv6_offset_;
  if (reference_)
    if (const auto refused = refuse_as_reference(frame)) return *refused;
  options_.source_port = source_port_.value_or(reference_port(frame));
  Sealed sealed{.family = frame.ip.family};
  const auto packet = write_headers(frame, out, sealed.family);
  if (!packet) {
    sealed.drop = packet.error();
    if (sealed.drop == Drop::TX_BAD_PACKET)
      sealed.note = frame.ip.fragment ? "a fragment: nobody could open it"
                                      : "an IPv6 header for routers stands in front";
    return sealed;
  }
  ++options_.iv;
  sealed.size = packet->icv_offset + kIcv;
  sealed.remains = {
      .psp_at = static_cast<std::uint32_t>(packet->psp_offset),
      .header_size = static_cast<std::uint32_t>(packet->header.size()),
      .inner_at = tunnel_ ? 0u : packet->ip.header_length,
      .inner_size = static_cast<std::uint32_t>(packet->icv_offset - packet->inner_offset)};
  return sealed;
}

void Sealer::complete(crypto::Aead& aead, const Remains& remains,
                      std::span<const std::uint8_t> packet, std::uint8_t* out) const {
  crypto::seal_datagram(aead, options_.version,
                        {out + remains.psp_at, remains.header_size + remains.inner_size + kIcv},
                        remains.header_size, packet.subspan(remains.inner_at, remains.inner_size));
}

Sealer::Sealed Sealer::seal(const Frame& frame, std::span<std::uint8_t> out) {
  const Sealed sealed = lay_out(frame, out);
  if (!sealed.skipped && !sealed.drop) complete(*aead_, sealed.remains, frame.packet, out.data());
  return sealed;
}

std::unique_ptr<crypto::Aead> Sealer::make_aead(CaptureKeys& keys) const {
  return std::move(keys.make(options_.version, options_.spi).front().aead);
}

}  // namespace psp::pcap_tool
