// SPDX-License-Identifier: Apache-2.0
//
// The cases that no sender should make: unusual packets that must open all the same, and packets
// that are damaged in each bit, at each length, in each header, or are not PSP at all.
//
// A wrong header is sealed as it stands wherever that can be done. Else the ICV would give every
// case away, and a receiver that checks nothing but the ICV would pass. Whether a case is to be
// opened or dropped is nowhere written here: receive() says it (Maker::add_received).
#include <algorithm>
#include <fmt/format.h>

#include "wire/bytes.hh"
#include "wire/checksum.hh"
#include "wire/tunnel.hh"

#include "maker.hh"

namespace psp::conformance {

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

}  // namespace psp::conformance
