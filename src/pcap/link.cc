// SPDX-License-Identifier: Apache-2.0
//
// From the link layer inwards. Lengths are checked before anything is read, and the number of
// layers is bounded. What is not known here is told apart from what can hold no IP packet: a
// capture of which nothing was understood must not look like one in which nothing is wrong.
#include "pcap/link.hh"

#include <algorithm>
#include <cstring>

#include "pcap/record.hh"
#include "wire/bytes.hh"
#include "wire/packet.hh"
#include "wire/tunnel.hh"

namespace psp::pcap {
namespace {

using Found = std::expected<LinkHeader, NotIp>;

constexpr std::size_t kEthHeader = 14;
constexpr std::size_t kTypeAt = 12;
constexpr std::uint16_t kTypeIpv4 = 0x0800;
constexpr std::uint16_t kTypeIpv6 = 0x86dd;
constexpr std::uint16_t kTypeEthernet = 0x6558;  // in GRE and Geneve
constexpr std::uint16_t kTypeErspan2 = 0x88be;
constexpr std::uint16_t kTypeErspan3 = 0x22eb;
constexpr std::uint16_t kTypePppoe = 0x8864;
constexpr std::uint16_t kLeastType = 0x0600;  // below: an 802.3 length
constexpr int kMaxTags = 2;
constexpr int kMaxLabels = 16;
constexpr int kMaxLayers = 8;  // IP packets in one another
constexpr std::uint8_t kProtocolGre = 47;
constexpr std::uint16_t kPortVxlan = 4789;
constexpr std::uint16_t kPortVxlanLinux = 8472;  // the kernel's own before IANA gave one out
constexpr std::uint16_t kPortGeneve = 6081;

// Without IP inside: Wake-on-LAN, ARP, RARP, AppleTalk, IPX, flow control, link
// aggregation, PPPoE discovery, EAPOL, PROFINET, LLDP, HomePlug, PTP, CFM, FCoE, RoCE, loopback.
constexpr std::uint16_t kWithoutIp[] = {0x0842, 0x0806, 0x8035, 0x809b, 0x8137, 0x8808,
                                        0x8809, 0x8863, 0x888e, 0x8892, 0x88cc, 0x88e1,
                                        0x88f7, 0x8902, 0x8906, 0x8914, 0x8915, 0x9000};

bool is_tag(std::uint16_t type) { return type == 0x8100 || type == 0x88a8 || type == 0x9100; }
bool is_mpls(std::uint16_t type) { return type == 0x8847 || type == 0x8848; }
bool is_raw(std::uint32_t link_type) {
  return link_type == kLinkRaw || link_type == kLinkRawBsd || link_type == kLinkRawOpenBsd;
}

std::unexpected<NotIp> no_ip(std::string_view why) { return std::unexpected(NotIp{true, why}); }
std::unexpected<NotIp> unknown(std::string_view why) { return std::unexpected(NotIp{false, why}); }
std::unexpected<NotIp> cut() { return unknown("cut short inside a link or tunnel header"); }

// Walk is the way through one frame.
class Walk {
 public:
  Walk(std::uint32_t link_type, std::span<const std::uint8_t> frame, Reach reach)
      : link_type_(link_type), frame_(frame), reach_(reach) {}
  Found start();

 private:
  bool has(std::size_t at, std::size_t size) const {
    return at <= frame_.size() && frame_.size() - at >= size;
  }
  std::uint16_t half(std::size_t at) const {
    return wire::load_be<std::uint16_t>(frame_.data() + at);
  }
  Found ethernet(std::size_t at);
  Found typed(std::uint16_t type, std::size_t type_at, std::size_t at);
  Found length_field(std::size_t at);
  Found mpls(std::size_t at);
  Found pppoe(std::size_t at);
  Found bare(std::size_t at);
  Found ip(std::size_t at, std::uint8_t family);
  Found inside(const wire::IpHeader& ip);
  Found udp(std::size_t at, const wire::IpHeader& ip);
  Found gre(std::size_t at);
  Found erspan3(std::size_t at);
  Found tunnelled(std::uint16_t type, std::size_t at);
  Found framed(std::string_view tunnel, std::size_t at);

  std::uint32_t link_type_;
  std::span<const std::uint8_t> frame_;
  Reach reach_;
  LinkHeader link_ = {};
  bool in_head_ = true;  // what is read belongs to the link header to be written
  int layers_ = 0;
};

Found Walk::start() {
  switch (link_type_) {
    case kLinkEthernet:
      return ethernet(0);
    case kLinkSll:
      return has(0, 16) ? typed(half(14), 14, 16) : cut();
    case kLinkSll2:
      return has(0, 20) ? typed(half(0), 0, 20) : cut();
    case kLinkRaw:
    case kLinkRawBsd:
    case kLinkRawOpenBsd:
    case kLinkIpv4:
    case kLinkIpv6:
      return bare(0);
    case kLinkNull:
    case kLinkLoop:
      return bare(4);  // the number of the family differs between systems: the packet knows
    default:
      return unknown("a link type not known here");
  }
}

Found Walk::ethernet(std::size_t at) {
  if (!has(at, kEthHeader)) return cut();
  in_head_ = link_type_ == kLinkEthernet;
  if (in_head_) link_.head_at = at;
  link_.shim = {};
  return typed(half(at + kTypeAt), at + kTypeAt, at + kEthHeader);
}

// typed goes on at `at` behind an EtherType, over VLAN tags.
Found Walk::typed(std::uint16_t type, std::size_t type_at, std::size_t at) {
  for (int tags = 0; is_tag(type); ++tags) {
    if (tags == kMaxTags) return unknown("more than two VLAN tags");
    if (!has(at, 4)) return cut();
    link_.shim = "VLAN tags";
    type_at = at + 2;
    type = half(type_at);
    at += 4;
  }
  if (in_head_) {
    link_.type_at = type_at;
    link_.head_size = at - link_.head_at;
  }
  if (type == kTypeIpv4 || type == kTypeIpv6) return ip(at, type == kTypeIpv4 ? 4 : 6);
  if (is_mpls(type)) return mpls(at);
  if (type == kTypePppoe) return pppoe(at);
  if (type < kLeastType) return length_field(at);
  if (std::ranges::find(kWithoutIp, type) != std::end(kWithoutIp)) return no_ip("not IP");
  return unknown("an EtherType not known here");
}

// length_field: 802.3, so LLC follows. With SNAP there may be an EtherType in it.
Found Walk::length_field(std::size_t at) {
  constexpr std::uint8_t kSnap[] = {0xaa, 0xaa, 0x03, 0, 0, 0};
  if (has(at, 8) && std::equal(std::begin(kSnap), std::end(kSnap), frame_.begin() + at))
    if (const auto type = half(at + 6); type == kTypeIpv4 || type == kTypeIpv6 || is_tag(type))
      return unknown("IP behind 802.2 SNAP");
  return no_ip("not IP");
}

Found Walk::mpls(std::size_t at) {
  link_.shim = "MPLS";
  for (int labels = 0; labels < kMaxLabels; ++labels) {
    if (!has(at, 5)) return cut();
    const bool bottom = frame_[at + 2] & 1;
    at += 4;
    if (!bottom) continue;
    const unsigned nibble = frame_[at] >> 4;
    if (nibble == 4 || nibble == 6) return ip(at, static_cast<std::uint8_t>(nibble));
    if (nibble == 1) return no_ip("not IP");  // a pseudowire's control channel
    return framed("an MPLS pseudowire", nibble == 0 ? at + 4 : at);
  }
  return unknown("more than 16 MPLS labels");
}

Found Walk::pppoe(std::size_t at) {
  constexpr std::size_t kHeader = 8;  // with PPP's protocol number
  if (!has(at, kHeader)) return cut();
  link_.shim = "PPPoE";
  const auto protocol = half(at + 6);
  if (protocol == 0x0021 || protocol == 0x0057) return ip(at + kHeader, protocol == 0x21 ? 4 : 6);
  if (protocol >= 0x8000) return no_ip("not IP");  // PPP's own control protocols
  return unknown("a PPP protocol not known here");
}

// bare: an IP packet that nothing in front says the family of.
Found Walk::bare(std::size_t at) {
  if (!has(at, 1)) return cut();
  const unsigned version = frame_[at] >> 4;
  if (version != 4 && version != 6) return unknown("neither IPv4 nor IPv6");
  if (in_head_) link_.head_size = at - link_.head_at;
  return ip(at, static_cast<std::uint8_t>(version));
}

Found Walk::ip(std::size_t at, std::uint8_t family) {
  if (!has(at, 0)) return cut();  // a tunnel's header may claim any length
  link_.ip_at = at;
  link_.family = family;
  if (in_head_) link_.head_family = family;
  in_head_ = false;
  if (reach_ == Reach::kLink) return link_;
  if (++layers_ > kMaxLayers) return unknown("more than 8 IP packets in one another");
  const auto ip = wire::parse_ip(frame_.subspan(at));
  // Whoever reads the packet says what is wrong with it.
  if (!ip || ip->family != family) return link_;
  return inside(*ip);
}

// inside looks into the IP packet at link_.ip_at: its tunnel's inside, or itself if it is none.
Found Walk::inside(const wire::IpHeader& ip) {
  const std::size_t at = link_.ip_at + ip.header_length;
  if (ip.protocol == wire::kProtocolUdp) return udp(at, ip);
  const bool in_ip = ip.protocol == wire::kProtocolIpv4 || ip.protocol == wire::kProtocolIpv6;
  if (!in_ip && ip.protocol != kProtocolGre) return link_;
  if (ip.fragment) return unknown("a fragment of a tunnel's packet");
  if (!in_ip) return gre(at);
  link_.tunnel = "IP in IP";
  return bare(at);
}

Found Walk::udp(std::size_t at, const wire::IpHeader& ip) {
  const std::size_t size = ip.total_length - ip.header_length;
  const bool later =
      ip.family == 4 && (half(link_.ip_at + 6) & 0x1fff);  // without ports: nobody can tell
  if (later || size < kUdpHeader + 8) return link_;
  const auto port = half(at + 2);
  const std::size_t header = at + kUdpHeader;
  const bool vxlan =
      (port == kPortVxlan || port == kPortVxlanLinux) && (frame_[header] & 0x08) != 0;
  const bool geneve = port == kPortGeneve && frame_[header] >> 6 == 0;
  if (!vxlan && !geneve) return link_;
  if (ip.fragment) return unknown("a fragment of a tunnel's packet");
  if (vxlan) return framed("VXLAN", header + 8);
  link_.tunnel = "Geneve";
  return tunnelled(half(header + 2), header + 8 + (frame_[header] & 0x3fu) * 4);
}

Found Walk::gre(std::size_t at) {
  if (!has(at, 4)) return cut();
  const auto flags = half(at);
  const auto type = half(at + 2);
  constexpr std::uint16_t kChecksum = 0x8000, kRouting = 0x4000, kKey = 0x2000, kSequence = 0x1000;
  if ((flags & 7) != 0 || (flags & kRouting)) return unknown("a kind of GRE not known here");
  const std::size_t inner = at + 4 + ((flags & kChecksum) ? 4 : 0) + ((flags & kKey) ? 4 : 0) +
                            ((flags & kSequence) ? 4 : 0);
  // The first version of ERSPAN has neither sequence numbers nor a header of its own.
  if (type == kTypeErspan2) return framed("ERSPAN", (flags & kSequence) ? inner + 8 : inner);
  if (type == kTypeErspan3) return erspan3(inner);
  if (type == 0) return no_ip("not IP");  // keepalive
  link_.tunnel = "GRE";
  return tunnelled(type, inner);
}

Found Walk::erspan3(std::size_t at) {
  constexpr std::size_t kHeader = 12, kSubheader = 8;
  if (!has(at, kHeader)) return cut();
  const auto last = half(at + 10);
  const std::size_t inner = at + kHeader + ((last & 1) ? kSubheader : 0);
  const unsigned kind = last >> 10 & 0x1f;
  if (kind == 0) return framed("ERSPAN", inner);
  if (kind != 2) return unknown("a kind of ERSPAN not known here");
  link_.tunnel = "ERSPAN";
  return bare(inner);
}

// tunnelled goes on behind a tunnel header that names what follows by EtherType.
Found Walk::tunnelled(std::uint16_t type, std::size_t at) {
  if (type == kTypeEthernet) return framed(link_.tunnel, at);
  if (type < kLeastType) return unknown("a tunnel's content not known here");
  link_.shim = {};
  return typed(type, at, at);
}

// framed goes on in an Ethernet frame inside a tunnel.
Found Walk::framed(std::string_view tunnel, std::size_t at) {
  if (reach_ == Reach::kLink) return unknown(tunnel);
  link_.tunnel = tunnel;
  return ethernet(at);
}

}  // namespace

std::expected<LinkHeader, NotIp> find_ip(std::uint32_t link_type,
                                         std::span<const std::uint8_t> frame, Reach reach) {
  return Walk(link_type, frame, reach).start();
}

bool write_head(std::uint8_t* out, std::uint32_t link_type, std::span<const std::uint8_t> frame,
                const LinkHeader& link, std::uint8_t family) {
  if (link.head_size != 0) std::memcpy(out, frame.data() + link.head_at, link.head_size);
  if (link.type_at == LinkHeader::kNoType) return link.head_family == family || is_raw(link_type);
  wire::store_be(out + (link.type_at - link.head_at), family == 4 ? kTypeIpv4 : kTypeIpv6);
  return true;
}

}  // namespace psp::pcap
