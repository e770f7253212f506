// SPDX-License-Identifier: Apache-2.0
//
// Packets as the system tests look at them and make them: clear TCP segments with right checksums,
// PSP packets under any key, both as IP packets.
//
// A test says what is in a segment, and the rest is made to fit, so that a packet is dropped for
// the reason that the test has in mind and for no other. Seals are made by the library's own
// crypto, which is held to the reference's vectors elsewhere. What a test looks for in a packet is
// content: random octets, which no other packet has (holds_part).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "crypto/secret.hh"
#include "netlink/client.hh"
#include "wire/types.hh"

namespace psp::lab {

using Octets = std::vector<std::uint8_t>;

inline constexpr std::uint8_t kFin = 0x01, kSyn = 0x02, kRst = 0x04, kPsh = 0x08, kAck = 0x10;

enum class From { kA, kB };
constexpr From other(From from) { return from == From::kA ? From::kB : From::kA; }

// Flow is a TCP connection from A to B, with the sequence numbers of both SYNs.
struct Flow {
  unsigned family = 4;  // on the wire
  Octets a_address, b_address;
  std::uint16_t a_port = 0, b_port = 0;
  std::uint32_t a_isn = 0, b_isn = 0;
};

// Segment is a TCP segment: to be sent, or as seen in the clear or opened.
struct Segment {
  std::uint32_t seq = 0, ack = 0;
  std::uint8_t flags = kAck;
  std::uint16_t window = 512;
  Octets payload = {};
};

// Seen is an IP packet of the wire.
struct Seen {
  From from = From::kA;
  Octets octets;                   // the IP packet, whole
  std::size_t size = 0;            // octets on the wire, IP header included
  bool psp = false;                // UDP to port 1000
  std::optional<Segment> segment;  // clear TCP
  std::uint16_t source_port = 0, destination_port = 0;
};

Octets octets_of(const std::string& text);
// random_octets cannot be compressed and does not repeat.
Octets random_octets(std::size_t size);
// holds_part tells whether any 16 octets in a row of `text` at a multiple of 16 occur in `packet`.
bool holds_part(const Octets& packet, const Octets& text);

// see_packet takes an IP packet apart.
Seen see_packet(From from, std::span<const std::uint8_t> packet);
// of_flow: is it a clear segment of this connection?
bool of_flow(const Seen& seen, const Flow& flow);

// clear_packet is the segment as an IP packet of the flow, sent by `from`.
Octets clear_packet(const Flow& flow, From from, const Segment& segment);

// SealAs is how a PSP packet is made.
struct SealAs {
  Version version = Version::kAesGcm128;
  Spi spi;
  std::span<const std::uint8_t> key;
};
Octets seal(const Octets& clear, const SealAs& as);
inline SealAs with(Version version, const KeyInfo& key) {
  return {version, key.spi, key.key.span()};
}

// open opens a PSP packet. Nothing if it is not one, has another SPI or does not authenticate.
std::optional<Segment> open(const Seen& seen, Version version, const KeyInfo& key);

// random_key is a key that a test gives as Tx key.
KeyInfo random_key(Version version, std::uint32_t spi = 0x1234);
KeyInfo clone(const KeyInfo& key);

}  // namespace psp::lab
