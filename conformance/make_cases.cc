// SPDX-License-Identifier: Apache-2.0
//
// The cases. Each add_* function is one paragraph of README.md. What a negative case must give is
// what the library says when the corpus is made; two runners that share no code with it
// (runner.c, runner.py) must come to the same, so that a mistake would have to be made three times.
#include <algorithm>
#include <fmt/format.h>
#include <set>
#include <stdexcept>

#include <psp/wire/bytes.hh>
#include <psp/wire/checksum.hh>
#include <psp/wire/tunnel.hh>

#include "corpus.hh"

namespace psp::conformance {
namespace {

constexpr std::uint8_t kTcp = 6, kUdp = 17, kSctp = 132, kIcmp = 1, kDestinationOptions = 60;
constexpr std::uint32_t kPhase0 = 0x1a345678, kPhase1 = 0x9a345678;

// Random is SplitMix64 (Steele, Lea, Flood 2014): the same numbers on every machine.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    state_ += 0x9e37'79b9'7f4a'7c15u;
    std::uint64_t z = state_;
    z = (z ^ z >> 30) * 0xbf58'476d'1ce4'e5b9u;
    z = (z ^ z >> 27) * 0x94d0'49bb'1331'11ebu;
    return z ^ z >> 31;
  }
  Octets octets(std::size_t size) {
    Octets made(size);
    for (auto& octet : made) octet = static_cast<std::uint8_t>(next() >> 32);
    return made;
  }

 private:
  std::uint64_t state_;
};

void put_ip_checksum(Octets& packet) {
  if (packet.size() < 20 || packet[0] >> 4 != 4) return;
  wire::store_be(packet.data() + 10, std::uint16_t{0});
  const std::size_t size = std::min<std::size_t>((packet[0] & 15u) * 4, packet.size());
  wire::store_be(packet.data() + 10, static_cast<std::uint16_t>(~wire::checksum_fold(
                                         wire::checksum_add(0, std::span(packet).first(size)))));
}

// Shape is what an inner packet looks like.
struct Shape {
  std::uint8_t family = 4;
  std::uint8_t protocol = kTcp;
  std::size_t payload = 24;  // behind the L4 header
  std::size_t options = 0;   // octets of IPv4 options
};

class Maker {
 public:
  Maker(Keys& keys, std::uint64_t seed) : keys_(keys), random_(seed) {}

  std::vector<Case> run() {
    add_combinations();
    add_mixed();
    add_sizes();
    add_edges();
    add_shapes();
    add_receive_only();
    for (unsigned version = 0; version < kVersions; ++version) add_flipped(*to_version(version));
    add_outer_flipped();
    add_truncated();
    add_lengths();
    add_headers();
    add_not_psp();
    add_inner();
    check_names();
    return std::move(cases_);
  }

 private:
  Octets l4_header(const Shape& shape);
  Octets clear_packet(const Shape& shape);
  Case sender(std::string name, bool tunnel, const Shape& shape, Version version, Spi spi);
  void add_sealed(Case one);
  void add_received(std::string name, Octets packet, bool open_question = false);
  Case base(Version version, std::uint8_t family, std::size_t extension = 0);

  void add_combinations();
  void add_mixed();
  void add_sizes();
  void add_edges();
  void add_shapes();
  void add_receive_only();
  void add_flipped(Version version);
  void add_outer_flipped();
  void add_truncated();
  void add_lengths();
  void add_headers();
  void add_not_psp();
  void add_inner();
  void check_names() const;

  Keys& keys_;
  Random random_;
  std::uint64_t next_iv_ = 1;
  std::vector<Case> cases_;
};

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

constexpr const char* protocol_name(std::uint8_t protocol) {
  return protocol == kTcp ? "tcp" : protocol == kUdp ? "udp" : protocol == kSctp ? "sctp" : "icmp";
}

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

// reseal writes the ICV again for what now stands in a packet without crypt offset.
void reseal(Keys& keys, Octets& packet, const Case& one, std::size_t psp) {
  const std::size_t ip_header = psp - kUdpHeader;
  Octets inner(one.clear.begin() + static_cast<std::ptrdiff_t>(ip_header), one.clear.end());
  std::ranges::copy(one.extension,
                    packet.begin() + static_cast<std::ptrdiff_t>(psp + kPspBaseHeader));
  crypto::seal_datagram(keys.aead(one.version, one.spi), one.version,
                        std::span(packet).subspan(psp), kPspBaseHeader + one.extension.size(),
                        inner);
}

// What a receiver must open although no sender should make it.
void Maker::add_receive_only() {
  for (unsigned version = 0; version < kVersions; ++version) {
    for (const std::uint8_t family : {4, 6}) {
      const std::size_t psp = (family == 4 ? kIpv4Header : kIpv6Header) + kUdpHeader;
      const Case one = base(*to_version(version), family);
      const auto changed = [&](const char* what, auto change) {
        Octets packet = one.packet;
        change(packet);
        reseal(keys_, packet, one, psp);
        add_received(fmt::format("v{} ip{} {}", version, family, what), packet);
      };
      changed("reserved bits set by the sender", [&](Octets& p) { p[psp + 2] |= 0xc0; });
      changed("sample bit", [&](Octets& p) { p[psp + 3] |= 0x80; });
      changed("drop bit", [&](Octets& p) { p[psp + 3] |= 0x40; });
      if (!encrypts(*to_version(version)))
        changed("gmac with a crypt offset", [&](Octets& p) { p[psp + 2] |= 0x3f; });
      Octets packet = one.packet;
      wire::store_be(packet.data() + psp - 2, std::uint16_t{0x1234});
      add_received(fmt::format("v{} ip{} udp checksum that is wrong", version, family), packet,
                   true);
      packet = one.packet;
      packet.insert(packet.end(), 7, 0x00);
      add_received(fmt::format("v{} ip{} padding behind the packet", version, family), packet);
    }
  }
  for (unsigned outer = 0; outer < 4; ++outer)
    for (unsigned inner = 0; inner < 4; ++inner)
      for (const std::uint8_t family : {4, 6}) {
        Case one =
            sender("", true, {.family = family, .protocol = kUdp}, Version::kAesGcm128, {kPhase0});
        const auto put = [&](Octets& packet, unsigned ecn) {
          if (family == 4)
            packet[1] = static_cast<std::uint8_t>((packet[1] & 0xfc) | ecn);
          else
            packet[1] = static_cast<std::uint8_t>((packet[1] & 0xcf) | ecn << 4);
          put_ip_checksum(packet);
        };
        put(one.clear, inner);
        Octets packet = seal(keys_, one);
        put(packet, outer);
        add_received(fmt::format("ip{} tunnel, ecn inside {} outside {}", family, inner, outer),
                     packet);
      }
}

// Each single bit from the PSP header to the ICV.
void Maker::add_flipped(Version version) {
  for (const std::size_t extension : {0u, 8u}) {
    const Case one = base(version, 4, extension);
    constexpr std::size_t psp = kIpv4Header + kUdpHeader;
    const std::size_t end = extension == 0 ? one.packet.size() : psp + kPspBaseHeader + extension;
    for (std::size_t at = psp; at < end; ++at)
      for (unsigned bit = 0; bit < 8; ++bit) {
        Octets packet = one.packet;
        packet[at] ^= static_cast<std::uint8_t>(1u << bit);
        add_received(fmt::format("v{} {}bit {} of octet {} flipped", static_cast<unsigned>(version),
                                 extension ? "vc " : "", bit, at - psp),
                     packet);
      }
  }
}

// Each single bit of IP and UDP: not authenticated, but lengths and checksums have a word.
void Maker::add_outer_flipped() {
  for (const std::uint8_t family : {4, 6}) {
    const Case one = base(Version::kAesGcm128, family);
    const std::size_t psp = (family == 4 ? kIpv4Header : kIpv6Header) + kUdpHeader;
    for (std::size_t at = 0; at < psp; ++at) {
      if (family == 6 && at > 8 && at < 39) continue;  // one octet of an address is as the next
      for (unsigned bit = 0; bit < 8; ++bit) {
        Octets packet = one.packet;
        packet[at] ^= static_cast<std::uint8_t>(1u << bit);
        add_received(
            fmt::format("ip{} bit {} of octet {} in front of PSP flipped", family, bit, at), packet,
            at + 2 >= psp);
      }
    }
  }
}

// Cut at every length: once as it is, once with lengths that say so.
void Maker::add_truncated() {
  for (const std::uint8_t family : {4, 6}) {
    const std::size_t ip_header = family == 4 ? kIpv4Header : kIpv6Header;
    for (const std::size_t extension : {0u, 8u}) {
      const Case one =
          base(extension ? Version::kAesGmac128 : Version::kAesGcm128, family, extension);
      for (std::size_t size = 0; size <= 64; ++size) {
        Octets packet = one.packet;
        if (extension == 0) {
          packet.resize(size);
          add_received(fmt::format("ip{} cut to {} octets", family, size), packet);
          packet = one.packet;
        }
        packet.resize(ip_header + size);
        wire::set_ip_payload(
            packet, {.family = family, .header_length = static_cast<std::uint16_t>(ip_header)},
            size, kUdp);
        if (size >= 6)
          wire::store_be(packet.data() + ip_header + 4, static_cast<std::uint16_t>(size));
        add_received(
            fmt::format("ip{} {}IP payload of {} octets", family, extension ? "vc " : "", size),
            packet);
      }
    }
  }
}

// Lengths that do not agree.
void Maker::add_lengths() {
  for (const std::uint8_t family : {4, 6}) {
    const Case one = base(Version::kAesGcm256, family);
    const std::size_t ip_header = family == 4 ? kIpv4Header : kIpv6Header;
    const auto right = static_cast<std::uint16_t>(one.packet.size() - ip_header);
    for (const int lie : {-65000, -1000, -64, -8, -1, 1, 8, 16, 64, 60000}) {
      const auto length = static_cast<std::uint16_t>(std::clamp(right + lie, 0, 65535));
      Octets packet = one.packet;
      wire::store_be(packet.data() + ip_header + 4, length);
      add_received(fmt::format("ip{} UDP length {:+}", family, lie), packet);
      packet = one.packet;
      packet.resize(packet.size() + 20);
      const auto total =
          static_cast<std::uint16_t>(std::clamp(right + lie + (family == 4 ? 20 : 0), 0, 65535));
      wire::store_be(packet.data() + (family == 4 ? 2 : 4), total);
      put_ip_checksum(packet);
      add_received(fmt::format("ip{} IP length {:+}", family, lie), packet);
      wire::store_be(packet.data() + ip_header + 4, length);
      add_received(fmt::format("ip{} IP and UDP length {:+}", family, lie), packet);
    }
  }
}

// PSP headers that cannot be, sealed as if they could: it is not the ICV that gives them away.
void Maker::add_headers() {
  constexpr std::size_t psp = kIpv4Header + kUdpHeader;
  const auto resealed = [&](const std::string& name, const Case& one, auto change,
                            bool question = false) {
    Octets packet = one.packet;
    change(packet);
    reseal(keys_, packet, one, psp);
    add_received(name, packet, question);
  };
  const Case plain = base(Version::kAesGcm128, 4);
  for (unsigned number = 4; number < 16; ++number)
    resealed(fmt::format("reserved version {}", number), plain,
             [&](Octets& p) { p[psp + 3] = static_cast<std::uint8_t>(1 | number << 2); });
  for (const std::uint8_t length : {0, 2, 3, 4, 5, 6, 7, 255})
    resealed(fmt::format("header length {} in a bare packet", int{length}), plain,
             [&](Octets& p) { p[psp + 1] = length; });
  resealed(
      "cookie bit without room", plain, [&](Octets& p) { p[psp + 3] |= 0x02; }, true);
  resealed("fixed bit 0", plain, [&](Octets& p) { p[psp + 3] &= 0xfe; });
  for (const std::uint32_t spi : {0u, 0x8000'0000u}) {
    Case one = sender("", false, {}, Version::kAesGcm128, {spi});
    add_received(fmt::format("reserved SPI {:08x}", spi), seal(keys_, one));
  }
  for (std::uint8_t units = 7; units < 64; ++units) {
    Octets packet = plain.packet;  // 32 octets behind the IV: 8 units are the end
    packet[psp + 2] = units;
    add_received(fmt::format("crypt offset {} of 8", units), packet, units > 8);
  }
  Octets other = plain.packet;
  other[psp + 3] = 0x05;
  add_received("sealed as version 0, says 1", other);
  Case under = plain;
  under.spi = {kPhase1};
  other = plain.packet;
  reseal(keys_, other, under, psp);
  add_received("sealed under the other device key", other);
}

// What is not PSP at all.
void Maker::add_not_psp() {
  for (const std::uint8_t family : {4, 6}) {
    const Case one = base(Version::kAesGcm128, family);
    const std::size_t ip_header = family == 4 ? kIpv4Header : kIpv6Header;
    for (const std::uint16_t port : {0, 999, 1001, 59395}) {
      Octets packet = one.packet;
      wire::store_be(packet.data() + ip_header + 2, port);
      wire::store_be(packet.data() + ip_header, std::uint16_t{1000});
      add_received(fmt::format("ip{} to port {}", family, port), packet);
    }
    Octets packet = one.packet;
    packet[family == 4 ? 9 : 6] = kTcp;
    put_ip_checksum(packet);
    add_received(fmt::format("ip{} not UDP", family), packet);
    packet = one.packet;
    packet[0] = static_cast<std::uint8_t>((packet[0] & 0x0f) | 0x50);
    add_received(fmt::format("ip{} of version 5", family), packet);
  }
  const Case one = base(Version::kAesGcm128, 4);
  for (const std::uint16_t control : {0x2000, 0x0001, 0x2001, 0x1fff}) {
    Octets packet = one.packet;
    wire::store_be(packet.data() + 6, control);
    put_ip_checksum(packet);
    add_received(fmt::format("ipv4 fragment {:04x}", control), packet);
  }
  Octets six = base(Version::kAesGcm128, 6).packet;
  six[6] = 44;
  add_received("ipv6 fragment header", six);
  six[6] = 0;
  add_received("ipv6 hop-by-hop header", six);
}

// Well sealed, but what is inside does not fit a tunnel.
void Maker::add_inner() {
  for (const std::uint8_t family : {4, 6}) {
    const auto add = [&](const char* what, auto change) {
      Case one = sender(fmt::format("ip{} tunnel with {}", family, what), true,
                        {.family = family, .protocol = kUdp}, Version::kAesGcm256, {kPhase1});
      Octets packet = seal(keys_, one);
      const std::size_t ip_header = family == 4 ? kIpv4Header : kIpv6Header;
      const std::size_t psp = ip_header + kUdpHeader;
      Octets inner = one.clear;
      change(inner, packet[psp]);
      crypto::seal_datagram(keys_.aead(one.version, one.spi), one.version,
                            std::span(packet).subspan(psp), kPspBaseHeader, inner);
      add_received(one.name, packet);
    };
    add("the other family in next header",
        [&](Octets&, std::uint8_t& next) { next = family == 4 ? 41 : 4; });
    add("no IP inside", [&](Octets& inner, std::uint8_t&) { inner[0] = 0x00; });
    add("inner length too long",
        [&](Octets& inner, std::uint8_t&) { ++inner[family == 4 ? 3 : 5]; });
    add("inner length too short",
        [&](Octets& inner, std::uint8_t&) { --inner[family == 4 ? 3 : 5]; });
  }
}

void Maker::check_names() const {
  std::set<std::string> names;
  for (const Case& one : cases_)
    if (!names.insert(one.name).second) throw std::runtime_error("two cases: " + one.name);
}

}  // namespace

std::vector<Case> make_cases(Keys& keys, std::uint64_t seed) { return Maker(keys, seed).run(); }

}  // namespace psp::conformance
