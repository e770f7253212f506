// SPDX-License-Identifier: Apache-2.0
//
// The probe of pspctl doctor: a packet that is PSP to every router and firewall, and to no key. Its
// SPI is 0, which no device gives out, so that there is nothing to seal or to open; docs/probe.md
// has it octet by octet. Parser and writer side by side, as in header.hh.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "wire/types.hh"

namespace psp::wire {

// kProbeVersion is the PSP version of a probe: none that there is, so that a device takes it
// whichever it has enabled.
inline constexpr std::uint8_t kProbeVersion = 15;
// kProbeSize is the UDP payload of the smallest probe. Those with more are zero at the end.
inline constexpr std::size_t kProbeSize = 128;

using ProbeAddress = std::array<std::uint8_t, 16>;  // IPv4 as ::ffff:a.b.c.d

struct Probe {
  bool answer = false;
  std::uint16_t wanted = 0;              // UDP payload that the answer shall have
  std::array<std::uint8_t, 16> nonce{};  // the asker's, repeated
  // Of an answer only:
  std::uint16_t received = 0;            // UDP payload that the request had
  ProbeAddress source{}, destination{};  // of the request, as it arrived
  VersionSet enabled{};                  // for receive there
  std::uint32_t mtu = 0;                 // of the netdev there
};

// is_probe: the UDP payload claims to be a probe; parse_probe then says whether it is one.
inline bool is_probe(std::span<const std::uint8_t> datagram) {
  constexpr std::array<std::uint8_t, 4> kNoSpi{};
  return datagram.size() >= kPspBaseHeader && datagram[0] == 59 &&
         datagram[3] == (kProbeVersion << 2 | 1) &&
         std::equal(kNoSpi.begin(), kNoSpi.end(), datagram.begin() + 4);
}

// parse_probe reads a UDP payload of kProbeSize or more. Nothing: it is no probe, or of a form that
// is not known here.
std::optional<Probe> parse_probe(std::span<const std::uint8_t> datagram);

// write_probe fills `out`, kProbeSize octets or more, with the probe and zeros.
void write_probe(std::span<std::uint8_t> out, const Probe& probe);

}  // namespace psp::wire
