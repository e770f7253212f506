// SPDX-License-Identifier: Apache-2.0
//
// IP and TCP as octets. Only what our own stack sends is built; what is parsed can be anything.
//
// A segment is built as Linux hands it to a netdev: one header, up to 64 KB, its checksum begun and
// not ended. cut() does what segmentation in software or a NIC would, join_next() what GRO would;
// only what would come out of cut() again may be joined, as in the kernel. Checksums of what came
// off the wire are looked at, those of what pspd vouches for are not.
#include "packet.hh"

#include <algorithm>
#include <cstring>

#include "wire/bytes.hh"
#include "wire/checksum.hh"
#include "wire/constants.h"
#include "wire/packet.hh"

namespace psp::sim {
namespace {

using wire::load_be;
using wire::store_be;

constexpr std::size_t kReservation = 40, kTcp = 20, kUdp = 8;
constexpr std::uint8_t kNop = 1, kProtocolTcp = 6, kProtocolUdp = 17;

std::size_t address_size(unsigned family) { return family == 4 ? 4 : 16; }
std::size_t addresses_at(unsigned family) { return family == 4 ? 12 : 8; }

std::uint8_t flags_of(const Segment& s) {
  return static_cast<std::uint8_t>((s.fin ? PSP_TCP_FLAG_FIN : 0) | (s.syn ? PSP_TCP_FLAG_SYN : 0) |
                                   (s.rst ? PSP_TCP_FLAG_RST : 0) | (s.psh ? PSP_TCP_FLAG_PSH : 0) |
                                   (s.ack ? PSP_TCP_FLAG_ACK : 0) | (s.urg ? PSP_TCP_FLAG_URG : 0));
}

// finish_checksum writes the checksum of TCP or UDP behind an IP header.
void finish_checksum(std::span<std::uint8_t> packet, const wire::IpHeader& ip, bool udp) {
  const auto l4 = packet.subspan(ip.header_length);
  std::uint8_t* field = l4.data() + (udp ? 6 : 16);
  store_be(field, std::uint16_t{0});
  const std::uint64_t sum = wire::checksum_add(
      wire::pseudo_header_sum(packet, ip.family, udp ? kProtocolUdp : kProtocolTcp,
                              static_cast<std::uint32_t>(l4.size())),
      l4);
  const auto value = static_cast<std::uint16_t>(~wire::checksum_fold(sum));
  store_be(field, static_cast<std::uint16_t>(udp && value == 0 ? 0xffff : value));
}

// headers_of is the length of IP and L4 header; 0: none that is known.
std::size_t headers_of(std::span<const std::uint8_t> packet, const wire::IpHeader& ip) {
  if (ip.protocol == kProtocolUdp && packet.size() >= ip.header_length + kUdp)
    return ip.header_length + kUdp;
  if (ip.protocol != kProtocolTcp || packet.size() < ip.header_length + kTcp) return 0;
  const std::size_t length = std::size_t{packet[ip.header_length + 12]} / 16 * 4;
  return length < kTcp || packet.size() < ip.header_length + length ? 0 : ip.header_length + length;
}

}  // namespace

Skb build(const Segment& s) {
  Skb skb;
  const bool four = s.tuple.family == 4;
  const std::size_t ip_length = four ? 20 + (s.reserved ? kReservation : 0) : 40;
  const std::size_t tcp_length = kTcp + size_of(s.options);
  skb.octets.resize(kEthernet + ip_length + tcp_length + s.payload.size());
  std::uint8_t* frame = skb.octets.data();
  frame[0] = frame[6] = 2;  // addresses of the link: whose, the kernel adds
  store_be(frame + 12, std::uint16_t{four ? std::uint16_t{0x0800} : std::uint16_t{0x86dd}});
  std::uint8_t* ip = frame + kEthernet;
  ip[0] = four ? static_cast<std::uint8_t>(0x40 | ip_length / 4) : 0x60;
  ip[four ? 8 : 7] = 64;
  if (four) ip[6] = 0x40;
  if (four) std::fill_n(ip + 20, ip_length - 20, kNop);
  const std::size_t size = address_size(s.tuple.family), at = addresses_at(s.tuple.family);
  std::memcpy(ip + at, s.tuple.local.octets.data(), size);
  std::memcpy(ip + at + size, s.tuple.remote.octets.data(), size);
  const wire::IpHeader header{.family = static_cast<std::uint8_t>(s.tuple.family),
                              .header_length = static_cast<std::uint16_t>(ip_length)};
  wire::set_ip_payload({ip, skb.octets.size() - kEthernet}, header, tcp_length + s.payload.size(),
                       kProtocolTcp);
  std::uint8_t* tcp = ip + ip_length;
  store_be(tcp, s.tuple.local_port);
  store_be(tcp + 2, s.tuple.remote_port);
  store_be(tcp + 4, s.seq);
  store_be(tcp + 8, s.ack_seq);
  tcp[12] = static_cast<std::uint8_t>(tcp_length / 4 << 4);
  tcp[13] = flags_of(s);
  store_be(tcp + 14, s.window);
  store_be(tcp + 18, s.urgent);
  write_options(s.options, {tcp + kTcp, tcp_length - kTcp});
  std::ranges::copy(s.payload, tcp + tcp_length);
  const auto l4 = static_cast<std::uint32_t>(tcp_length + s.payload.size());
  store_be(tcp + 16, wire::checksum_fold(wire::pseudo_header_sum({ip, ip_length}, s.tuple.family,
                                                                 kProtocolTcp, l4)));
  skb.needs_checksum = true;
  if (s.gso_size != 0 && s.payload.size() > s.gso_size) skb.gso_size = s.gso_size;
  return skb;
}

bool ip_checksum_ok(std::span<const std::uint8_t> ip) {
  if (ip.empty() || ip[0] >> 4 != 4) return true;
  const std::size_t length = std::size_t{ip[0] & 15u} * 4;
  return length >= 20 && ip.size() >= length &&
         wire::checksum_fold(wire::checksum_add(0, ip.first(length))) == 0xffff;
}

std::optional<Tuple> parse_tuple(std::span<const std::uint8_t> ip) {
  const auto header = wire::parse_ip(ip);
  if (!header || header->protocol != kProtocolTcp || ip.size() < header->header_length + 4u)
    return {};
  Tuple tuple{.family = header->family};
  const std::size_t size = address_size(tuple.family), at = addresses_at(tuple.family);
  std::memcpy(tuple.local.octets.data(), ip.data() + at, size);
  std::memcpy(tuple.remote.octets.data(), ip.data() + at + size, size);
  tuple.local_port = load_be<std::uint16_t>(ip.data() + header->header_length);
  tuple.remote_port = load_be<std::uint16_t>(ip.data() + header->header_length + 2);
  return tuple;
}

std::optional<Segment> parse_segment(std::span<const std::uint8_t> packet, bool check) {
  const auto ip = wire::parse_ip(packet);
  if (!ip || ip->protocol != kProtocolTcp || ip->fragment) return {};
  packet = packet.first(ip->total_length);
  const std::size_t headers = headers_of(packet, *ip);
  if (headers == 0) return {};
  const auto l4 = packet.subspan(ip->header_length);
  if (check) {
    const std::uint64_t sum =
        wire::checksum_add(wire::pseudo_header_sum(packet, ip->family, kProtocolTcp,
                                                   static_cast<std::uint32_t>(l4.size())),
                           l4);
    if (wire::checksum_fold(sum) != 0xffff) return {};
  }
  Segment s;
  s.tuple = *parse_tuple(packet);
  const std::uint8_t* tcp = l4.data();
  s.seq = load_be<std::uint32_t>(tcp + 4);
  s.ack_seq = load_be<std::uint32_t>(tcp + 8);
  s.fin = tcp[13] & PSP_TCP_FLAG_FIN;
  s.syn = tcp[13] & PSP_TCP_FLAG_SYN;
  s.rst = tcp[13] & PSP_TCP_FLAG_RST;
  s.psh = tcp[13] & PSP_TCP_FLAG_PSH;
  s.ack = tcp[13] & PSP_TCP_FLAG_ACK;
  s.urg = tcp[13] & PSP_TCP_FLAG_URG;
  s.window = load_be<std::uint16_t>(tcp + 14);
  s.urgent = load_be<std::uint16_t>(tcp + 18);
  if (headers > ip->header_length + kTcp)
    s.options = parse_options(l4.subspan(kTcp, headers - ip->header_length - kTcp));
  s.payload.assign(packet.begin() + static_cast<std::ptrdiff_t>(headers), packet.end());
  return s;
}

std::vector<Octets> cut(const Skb& skb) {
  std::vector<Octets> packets;
  const std::span frame(skb.octets);
  const auto ip = wire::parse_ip(frame.subspan(kEthernet));
  const std::size_t headers =
      ip ? headers_of(frame.subspan(kEthernet).first(ip->total_length), *ip) : 0;
  if (headers == 0) return {skb.octets};
  const std::size_t first = kEthernet + headers;
  const std::size_t size = ip->total_length + kEthernet - first;
  const std::size_t stride = skb.gso_size != 0 ? skb.gso_size : std::max<std::size_t>(size, 1);
  std::size_t at = 0;
  do {
    const std::size_t length = std::min(stride, size - at);
    Octets one(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(first));
    const auto from = frame.begin() + static_cast<std::ptrdiff_t>(first + at);
    one.insert(one.end(), from, from + static_cast<std::ptrdiff_t>(length));
    const std::span packet(one.data() + kEthernet, one.size() - kEthernet);
    const bool udp = ip->protocol == kProtocolUdp;
    std::uint8_t* l4 = packet.data() + ip->header_length;
    wire::set_ip_payload(packet, *ip, packet.size() - ip->header_length, ip->protocol);
    if (udp)
      store_be(l4 + 4, static_cast<std::uint16_t>(packet.size() - ip->header_length));
    else
      store_be(l4 + 4, load_be<std::uint32_t>(l4 + 4) + static_cast<std::uint32_t>(at));
    if (!udp && at + length < size)
      l4[13] &= static_cast<std::uint8_t>(~(PSP_TCP_FLAG_FIN | PSP_TCP_FLAG_PSH));
    if (skb.needs_checksum) finish_checksum(packet, *ip, udp);
    packets.push_back(std::move(one));
    at += length;
  } while (at < size);
  return packets;
}

namespace {

// same_but: two headers are the same but for lengths and checksums, and TCP's sequence number.
bool same_flow(std::span<const std::uint8_t> a, std::span<const std::uint8_t> b,
               const wire::IpHeader& ip, std::size_t headers) {
  const auto equal = [&](std::size_t from, std::size_t to) {
    return std::equal(a.begin() + static_cast<std::ptrdiff_t>(from),
                      a.begin() + static_cast<std::ptrdiff_t>(to),
                      b.begin() + static_cast<std::ptrdiff_t>(from));
  };
  const bool four = ip.family == 4;
  const std::size_t l4 = ip.header_length;
  if (!(four ? equal(0, 2) && equal(4, 10) && equal(12, l4) : equal(0, 4) && equal(6, l4)))
    return false;
  if (ip.protocol == kProtocolUdp) return equal(l4, l4 + 4);
  return equal(l4, l4 + 4) && equal(l4 + 8, l4 + 13) && equal(l4 + 18, headers);
}

}  // namespace

bool join_next(Skb& train, const Octets& next) {
  const std::span a(train.octets.data() + kEthernet, train.octets.size() - kEthernet);
  const std::span b(next.data() + kEthernet, next.size() - kEthernet);
  const auto ip = wire::parse_ip(a), other = wire::parse_ip(b);
  if (!ip || !other || ip->protocol != other->protocol || ip->total_length != a.size() ||
      other->total_length != b.size() || ip->header_length != other->header_length)
    return false;
  const std::size_t headers = headers_of(a, *ip);
  if (headers == 0 || headers != headers_of(b, *other) || !same_flow(a, b, *ip, headers))
    return false;
  const bool udp = ip->protocol == kProtocolUdp;
  if (udp && !is_psp(a)) return false;
  const std::size_t have = a.size() - headers, more = b.size() - headers;
  const std::size_t size = train.gso_size != 0 ? train.gso_size : have;
  if (size == 0 || have % size != 0 || more == 0 || more > size || a.size() + more > 65000 ||
      have / size >= 60)
    return false;
  std::uint8_t* l4 = train.octets.data() + kEthernet + ip->header_length;
  const std::uint8_t* from = b.data() + ip->header_length;
  if (!udp) {
    const std::uint32_t next_seq =
        load_be<std::uint32_t>(l4 + 4) + static_cast<std::uint32_t>(have);
    if (next_seq != load_be<std::uint32_t>(from + 4)) return false;
    if ((l4[13] & ~PSP_TCP_FLAG_PSH) != PSP_TCP_FLAG_ACK) return false;
    if ((from[13] & ~(PSP_TCP_FLAG_PSH | PSP_TCP_FLAG_FIN)) != PSP_TCP_FLAG_ACK) return false;
    l4[13] |= from[13];
  }
  train.gso_size = static_cast<std::uint16_t>(size);
  train.gso_udp = udp;
  train.octets.insert(train.octets.end(), b.begin() + static_cast<std::ptrdiff_t>(headers),
                      b.end());
  const std::span packet(train.octets.data() + kEthernet, train.octets.size() - kEthernet);
  wire::set_ip_payload(packet, *ip, packet.size() - ip->header_length, ip->protocol);
  if (udp)
    store_be(packet.data() + ip->header_length + 4,
             static_cast<std::uint16_t>(packet.size() - ip->header_length));
  return true;
}

std::optional<Address> destination(std::span<const std::uint8_t> ip, unsigned& family) {
  const auto header = wire::parse_ip(ip);
  if (!header) return {};
  family = header->family;
  Address address;
  const std::size_t size = address_size(family);
  std::memcpy(address.octets.data(), ip.data() + addresses_at(family) + size, size);
  return address;
}

bool is_psp(std::span<const std::uint8_t> ip) {
  const auto header = wire::parse_ip(ip);
  return header && header->protocol == kProtocolUdp && !header->fragment &&
         ip.size() >= header->header_length + kUdp &&
         load_be<std::uint16_t>(ip.data() + header->header_length + 2) == PSP_UDP_PORT;
}

std::optional<PspNumbers> psp_numbers(std::span<const std::uint8_t> ip) {
  const auto header = wire::parse_ip(ip);
  if (!header || ip.size() < header->header_length + kUdp + 16) return {};
  const std::uint8_t* psp = ip.data() + header->header_length + kUdp;
  return PspNumbers{load_be<std::uint32_t>(psp + 4), load_be<std::uint64_t>(psp + 8)};
}

}  // namespace psp::sim
