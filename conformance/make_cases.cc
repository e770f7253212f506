// SPDX-License-Identifier: Apache-2.0
//
// The cases that are sealed and come back, and what all are made with. What a negative case must
// give is what the library says when the corpus is made; two runners that share no code with it
// (runner.c, runner.py) must come to the same, so that a mistake would have to be made three times.
#include <algorithm>
#include <fmt/format.h>
#include <set>
#include <stdexcept>

#include "wire/bytes.hh"
#include "wire/checksum.hh"
#include "wire/tunnel.hh"

#include "maker.hh"

namespace psp::conformance {

void put_ip_checksum(Octets& packet) {
  if (packet.size() < 20 || packet[0] >> 4 != 4) return;
  wire::store_be(packet.data() + 10, std::uint16_t{0});
  const std::size_t size = std::min<std::size_t>((packet[0] & 15u) * 4, packet.size());
  wire::store_be(packet.data() + 10, static_cast<std::uint16_t>(~wire::checksum_fold(
                                         wire::checksum_add(0, std::span(packet).first(size)))));
}

Octets Maker::l4_header(const Shape& shape) {
  Octets header;
  if (shape.protocol == kTcp) {
    header = random_.octets(20);
    header[12] = 0x50;
    header[13] = 0x18;
  } else if (shape.protocol == kUdp) {
    header = random_.octets(8);
    wire::store_be(header.data() + 4, static_cast<std::uint16_t>(8 + shape.payload));
  } else {
    header = random_.octets(shape.protocol == kSctp ? 12 : 8);
  }
  return header;
}

Octets Maker::clear_packet(const Shape& shape) {
  const std::size_t ip_header = shape.family == 4 ? kIpv4Header + shape.options : kIpv6Header;
  Octets packet = random_.octets(ip_header);
  if (shape.family == 4) {
    packet[0] = static_cast<std::uint8_t>(0x40 | ip_header / 4);
    wire::store_be(packet.data() + 6, std::uint16_t{0x4000});
    packet[8] = 64;
    std::copy_n("\x0a\x00\x00\x01\x0a\x00\x00\x02", 8, packet.begin() + 12);
    std::fill(packet.begin() + kIpv4Header, packet.end(), std::uint8_t{1});  // NOP
  } else {
    packet[0] = 0x60;
    packet[1] &= 0x0f;
    packet[7] = 64;
    packet[8] = packet[24] = 0xfd;
  }
  packet[1] = shape.family == 4 ? wire::kEct0 : packet[1];
  auto l4 = l4_header(shape);
  const auto payload = random_.octets(shape.payload);
  l4.insert(l4.end(), payload.begin(), payload.end());
  packet.insert(packet.end(), l4.begin(), l4.end());
  wire::set_ip_payload(
      packet, {.family = shape.family, .header_length = static_cast<std::uint16_t>(ip_header)},
      l4.size(), shape.protocol);
  put_ip_checksum(packet);
  // TCP and UDP get a right checksum, so that other tools are content too.
  const std::size_t sum_at = ip_header + (shape.protocol == kTcp ? 16 : 6);
  if (shape.protocol != kTcp && shape.protocol != kUdp) return packet;
  wire::store_be(packet.data() + sum_at, std::uint16_t{0});
  const auto sum =
      wire::checksum_add(wire::pseudo_header_sum(packet, shape.family, shape.protocol,
                                                 static_cast<std::uint32_t>(l4.size())),
                         std::span(packet).subspan(ip_header));
  wire::store_be(packet.data() + sum_at, static_cast<std::uint16_t>(~wire::checksum_fold(sum)));
  return packet;
}

Case Maker::sender(std::string name, bool tunnel, const Shape& shape, Version version, Spi spi) {
  Case one;
  one.name = std::move(name);
  one.tunnel = tunnel;
  one.clear = clear_packet(shape);
  one.version = version;
  one.spi = spi;
  one.iv = next_iv_++;
  one.source_port = static_cast<std::uint16_t>(0xc000 | random_.next() % 0x4000);
  return one;
}

void Maker::add_sealed(Case one) {
  one.packet = seal(keys_, one);
  const auto opened = receive(keys_, one.packet);
  if (!opened || *opened != one.clear) throw std::runtime_error(one.name + " does not come back");
  cases_.push_back(std::move(one));
}

// add_received adds a packet as it arrives, with what the library makes of it.
void Maker::add_received(std::string name, Octets packet, bool open_question) {
  Case one;
  one.name = std::move(name);
  one.open_question = open_question;
  const auto opened = receive(keys_, packet);
  one.kind = opened ? Case::Kind::kOpen : Case::Kind::kDrop;
  if (opened)
    one.clear = *opened;
  else
    one.reason = opened.error();
  // What fails before the PSP header is the IP layer's business as much as the device's.
  const auto ip = wire::parse_ip(packet);
  const std::size_t udp = ip ? ip->header_length : 0;
  one.or_ignore = one.kind == Case::Kind::kDrop &&
                  (!ip || ip->fragment || ip->protocol != kUdp || one.reason == Drop::BAD_IP ||
                   ip->total_length < udp + kUdpHeader ||
                   wire::load_be<std::uint16_t>(packet.data() + udp + 4) != ip->total_length - udp);
  one.packet = std::move(packet);
  cases_.push_back(std::move(one));
}

// base is a packet to be damaged: transport, TCP, `extension` octets with a cookie in front.
Case Maker::base(Version version, std::uint8_t family, std::size_t extension) {
  Case one = sender("base", false, {.family = family, .payload = 12}, version, {kPhase0});
  one.extension = random_.octets(extension);
  one.cookie = extension >= kVirtualizationCookie;
  one.packet = seal(keys_, one);
  return one;
}

namespace {
constexpr const char* protocol_name(std::uint8_t protocol) {
  return protocol == kTcp ? "tcp" : protocol == kUdp ? "udp" : protocol == kSctp ? "sctp" : "icmp";
}
}  // namespace

// All versions, families and modes; what is inside; crypt offsets of each class; extensions.
void Maker::add_combinations() {
  struct Extension {
    const char* name;
    bool cookie;
    std::size_t size;
  };
  constexpr Extension extensions[] = {
      {"bare", false, 0}, {"vc", true, 8}, {"vc+ext", true, 24}, {"ext", false, 16}};
  constexpr const char* classes[] = {"co=0", "co=mid", "co=ports", "co=end"};
  unsigned turn = 0;
  for (unsigned version = 0; version < kVersions; ++version)
    for (const std::uint8_t family : {4, 6})
      for (const bool tunnel : {false, true})
        for (const std::uint8_t protocol : {kTcp, kUdp, kSctp})
          for (const auto& extension : extensions)
            for (unsigned offset = 0; offset < std::size(classes); ++offset) {
              const bool gmac = !encrypts(*to_version(version));
              if (gmac && offset != 0) continue;  // the field is reserved
              const Shape shape{.family = family, .protocol = protocol, .payload = 4 * (turn % 5)};
              Case one =
                  sender(fmt::format("v{} ip{} {} {} {} {}", version, family,
                                     tunnel ? "tunnel" : "transport", protocol_name(protocol),
                                     extension.name, gmac ? "gmac" : classes[offset]),
                         tunnel, shape, *to_version(version), {turn % 2 ? kPhase1 : kPhase0});
              ++turn;
              one.cookie = extension.cookie;
              one.extension = random_.octets(extension.size);
              const std::size_t ip_header = family == 4 ? kIpv4Header : kIpv6Header;
              const std::size_t inner = one.clear.size() - (tunnel ? 0 : ip_header);
              const std::size_t clear[] = {0, extension.size / 2 + 4,
                                           extension.size + (tunnel ? ip_header : 0) + 4,
                                           extension.size + inner};
              one.crypt_offset = {static_cast<std::uint8_t>(clear[offset] / 4)};
              add_sealed(std::move(one));
            }
}

// Tunnels through the other family.
void Maker::add_mixed() {
  for (unsigned version = 0; version < kVersions; ++version)
    for (const std::uint8_t family : {4, 6})
      for (const std::uint8_t protocol : {kTcp, kUdp, kSctp})
        for (const bool ports : {false, true}) {
          const std::uint8_t outer = family == 4 ? 6 : 4;
          Case one = sender(fmt::format("v{} ip{} in ip{} {} {}", version, family, outer,
                                        protocol_name(protocol), ports ? "co=ports" : "co=0"),
                            true, {.family = family, .protocol = protocol}, *to_version(version),
                            {kPhase0});
          one.mixed = true;
          if (ports && encrypts(*to_version(version)))
            one.crypt_offset = {static_cast<std::uint8_t>(family == 4 ? 6 : 11)};
          add_sealed(std::move(one));
        }
}

// Sizes around those of blocks and of the loops of AES-GCM implementations, up to jumbo frames.
void Maker::add_sizes() {
  constexpr std::size_t sizes[] = {0,   1,   3,   4,   7,   8,   15,   16,   17,   31,   32,
                                   33,  63,  64,  65,  127, 128, 129,  255,  256,  257,  383,
                                   511, 512, 513, 767, 768, 769, 1023, 1024, 1025, 1400, 8880};
  for (unsigned version = 0; version < kVersions; ++version)
    for (const std::size_t size : sizes) {
      if (size > 2000 && version % 2 == 1) continue;
      const bool tunnel = size % 2 == 1;
      add_sealed(sender(
          fmt::format("v{} size {} {}", version, size, tunnel ? "tunnel" : "transport"), tunnel,
          {.family = static_cast<std::uint8_t>(version < 2 ? 4 : 6),
           .protocol = kUdp,
           .payload = size},
          *to_version(version), {kPhase1}));
    }
}

// The edges of SPI and IV.
void Maker::add_edges() {
  constexpr std::uint32_t spis[] = {1, 0x12345678, 0x7fffffff, 0x80000001, 0x9a345678, 0xffffffff};
  constexpr std::uint64_t ivs[] = {
      0, 1, 0xffff'ffff, 0x1'0000'0000, std::uint64_t{1} << 63, ~std::uint64_t{0}};
  for (unsigned version = 0; version < kVersions; ++version)
    for (const std::uint32_t spi : spis)
      for (const std::uint64_t iv : ivs) {
        Case one = sender(fmt::format("v{} spi {:08x} iv {:016x}", version, spi, iv), false,
                          {.payload = 8}, *to_version(version), {spi});
        one.iv = iv;
        add_sealed(std::move(one));
      }
}

// Unusual packets that are sealed all the same.
void Maker::add_shapes() {
  for (const std::size_t options : {4u, 40u}) {
    add_sealed(sender(fmt::format("ipv4 with {} octets of options, transport", options), false,
                      {.options = options}, Version::kAesGcm128, {kPhase0}));
    add_sealed(sender(fmt::format("ipv4 with {} octets of options, tunnel", options), true,
                      {.options = options}, Version::kAesGcm256, {kPhase0}));
  }
  add_sealed(sender("ipv6 destination options as next header", false,
                    {.family = 6, .protocol = kDestinationOptions}, Version::kAesGcm128,
                    {kPhase0}));
  add_sealed(sender("icmp, transport", false, {.protocol = kIcmp}, Version::kAesGcm256, {kPhase0}));
  Case fragment =
      sender("ipv4 fragment, tunnel", true, {.protocol = kUdp}, Version::kAesGcm128, {kPhase0});
  wire::store_be(fragment.clear.data() + 6, std::uint16_t{0x2010});
  put_ip_checksum(fragment.clear);
  fragment.packet = seal(keys_, fragment);
  add_sealed(std::move(fragment));
  Case empty =
      sender("ip packet without payload, tunnel", true, {}, Version::kAesGcm128, {kPhase1});
  empty.clear.resize(kIpv4Header);
  wire::set_ip_payload(empty.clear, {.family = 4, .header_length = kIpv4Header}, 0, kTcp);
  add_sealed(std::move(empty));
  Case largest =
      sender("longest header: ext length 255", false, {}, Version::kAesGcm128, {kPhase0});
  largest.extension = random_.octets(2032);
  largest.cookie = true;
  add_sealed(std::move(largest));
}

void Maker::check_names() const {
  std::set<std::string> names;
  for (const Case& one : cases_)
    if (!names.insert(one.name).second) throw std::runtime_error("two cases: " + one.name);
}

std::vector<Case> make_cases(Keys& keys, std::uint64_t seed) { return Maker(keys, seed).run(); }

}  // namespace psp::conformance
