// SPDX-License-Identifier: Apache-2.0
//
// Packets by hand: headers octet by octet, seals by the library's own crypto. An IP packet is taken
// apart no further than tests ask. Random octets come from a fixed seed, so that a failure can be
// repeated.
#include "packets.hh"

#include <algorithm>
#include <atomic>
#include <random>
#include <stdexcept>

#include "crypto/seal.hh"
#include "wire/bytes.hh"
#include "wire/checksum.hh"
#include "wire/packet.hh"

namespace psp::lab {
namespace {

constexpr std::size_t kTcpHeader = 20;
constexpr std::uint8_t kHopLimit = 64;

std::unique_ptr<crypto::Aead> aead_for(Version version, std::span<const std::uint8_t> key) {
  auto aead = crypto::openssl_backend().make_aead();
  aead->rekey(version, key);
  return aead;
}

Octets ip_header(const Flow& flow, From from, std::size_t payload) {
  Octets ip(flow.family == 4 ? kIpv4Header : kIpv6Header);
  const Octets& source = from == From::kA ? flow.a_address : flow.b_address;
  const Octets& destination = from == From::kA ? flow.b_address : flow.a_address;
  if (flow.family == 4) {
    ip[0] = 0x45;
    ip[6] = 0x40;  // do not fragment
    ip[8] = kHopLimit;
    std::ranges::copy(source, ip.begin() + 12);
    std::ranges::copy(destination, ip.begin() + 16);
  } else {
    ip[0] = 0x60;
    ip[7] = kHopLimit;
    std::ranges::copy(source, ip.begin() + 8);
    std::ranges::copy(destination, ip.begin() + 24);
  }
  wire::set_ip_payload(ip,
                       {.family = static_cast<std::uint8_t>(flow.family),
                        .header_length = static_cast<std::uint16_t>(ip.size())},
                       payload, wire::kProtocolTcp);
  return ip;
}

Segment read_segment(std::span<const std::uint8_t> tcp) {
  Segment segment;
  segment.seq = wire::load_be<std::uint32_t>(tcp.data() + 4);
  segment.ack = wire::load_be<std::uint32_t>(tcp.data() + 8);
  segment.flags = tcp[13];
  segment.window = wire::load_be<std::uint16_t>(tcp.data() + 14);
  const std::size_t header = std::min<std::size_t>(tcp[12] / 16 * 4, tcp.size());
  segment.payload.assign(tcp.begin() + static_cast<std::ptrdiff_t>(header), tcp.end());
  return segment;
}

}  // namespace

Octets octets_of(const std::string& text) { return {text.begin(), text.end()}; }

Octets random_octets(std::size_t size) {
  static std::mt19937_64 generator(20240229);
  Octets octets(size);
  for (auto& octet : octets) octet = static_cast<std::uint8_t>(generator() >> 56);
  return octets;
}

bool holds_part(const Octets& packet, const Octets& text) {
  for (std::size_t at = 0; at + 16 <= text.size(); at += 16)
    if (std::search(packet.begin(), packet.end(), text.begin() + static_cast<std::ptrdiff_t>(at),
                    text.begin() + static_cast<std::ptrdiff_t>(at + 16)) != packet.end())
      return true;
  return false;
}

Seen see_packet(From from, std::span<const std::uint8_t> packet) {
  Seen seen;
  seen.from = from;
  seen.octets.assign(packet.begin(), packet.end());
  seen.size = packet.size();
  const auto ip = wire::parse_ip(packet);
  if (!ip) return seen;
  auto l4 = packet.subspan(ip->header_length, ip->total_length - ip->header_length);
  if (l4.size() < kUdpHeader) return seen;
  seen.source_port = wire::load_be<std::uint16_t>(l4.data());
  seen.destination_port = wire::load_be<std::uint16_t>(l4.data() + 2);
  seen.psp = ip->protocol == wire::kProtocolUdp && seen.destination_port == kUdpPort;
  if (ip->protocol == wire::kProtocolTcp && l4.size() >= kTcpHeader)
    seen.segment = read_segment(l4);
  return seen;
}

bool of_flow(const Seen& seen, const Flow& flow) {
  const bool a = seen.from == From::kA;
  return seen.segment && seen.source_port == (a ? flow.a_port : flow.b_port) &&
         seen.destination_port == (a ? flow.b_port : flow.a_port);
}

Octets clear_packet(const Flow& flow, From from, const Segment& segment) {
  Octets packet = ip_header(flow, from, kTcpHeader + segment.payload.size());
  const std::size_t at = packet.size();
  packet.resize(at + kTcpHeader);
  std::uint8_t* tcp = packet.data() + at;
  wire::store_be(tcp, from == From::kA ? flow.a_port : flow.b_port);
  wire::store_be(tcp + 2, from == From::kA ? flow.b_port : flow.a_port);
  wire::store_be(tcp + 4, segment.seq);
  wire::store_be(tcp + 8, segment.ack);
  tcp[12] = kTcpHeader / 4 << 4;
  tcp[13] = segment.flags;
  wire::store_be(tcp + 14, segment.window);
  packet.insert(packet.end(), segment.payload.begin(), segment.payload.end());
  const std::span l4(packet.data() + at, packet.size() - at);
  const std::uint64_t sum = wire::pseudo_header_sum(packet, flow.family, wire::kProtocolTcp,
                                                    static_cast<std::uint32_t>(l4.size()));
  wire::store_be(packet.data() + at + 16,
                 static_cast<std::uint16_t>(~wire::checksum_fold(wire::checksum_add(sum, l4))));
  return packet;
}

Octets seal(const Octets& clear, const SealAs& as) {
  static std::atomic<std::uint64_t> iv{0x7000'0000'0000'0000u};
  Octets packet(wire::sealed_size(clear.size(), false));
  const auto aead = aead_for(as.version, as.key);
  const auto sealed = crypto::seal_packet(
      *aead, {.version = as.version, .spi = as.spi, .iv = iv++, .source_port = 50000}, clear,
      packet);
  if (!sealed) throw std::runtime_error("seal_packet");
  packet.resize(*sealed);
  return packet;
}

std::optional<Segment> open(const Seen& seen, Version version, const KeyInfo& key) {
  const auto psp = wire::parse_packet(seen.octets);
  if (!psp || psp->header.spi != key.spi || psp->header.version() != version) return std::nullopt;
  Octets clear(seen.octets.size());
  const auto aead = aead_for(version, key.key.span());
  const auto opened = crypto::open_packet(*aead, *psp, seen.octets, clear);
  if (!opened) return std::nullopt;
  clear.resize(*opened);
  return see_packet(seen.from, clear).segment;
}

KeyInfo random_key(Version version, std::uint32_t spi) {
  KeyInfo key;
  key.spi = Spi{spi};
  key.key.resize(key_size(version));
  crypto::random_bytes({key.key.data(), key.key.size()});
  return key;
}

KeyInfo clone(const KeyInfo& key) { return {key.spi, crypto::SaKey(key.key.span())}; }

}  // namespace psp::lab
