// SPDX-License-Identifier: Apache-2.0
//
// What the tests of this layer share: the backends that there are, hex, and clear packets. Every
// test of a backend runs for both, so that one is checked against the other. A machine without
// ipsec-mb tests OpenSSL alone, and no test fails for that. Contents are a pattern in which no
// octet equals its neighbour, so that a shift by one shows.
#pragma once

#include <cstdint>
#include <gtest/gtest.h>
#include <string>
#include <string_view>
#include <vector>

#include "crypto/aead.hh"
#include "wire/packet.hh"

namespace psp::crypto::test {

using Octets = std::vector<std::uint8_t>;

inline std::vector<const Backend*> backends() {
  std::vector<const Backend*> all = {&openssl_backend()};
  if (ipsec_mb_backend()) all.push_back(ipsec_mb_backend());
  return all;
}

// backend_name names a parameterised test after its backend.
inline std::string backend_name(const testing::TestParamInfo<const Backend*>& info) {
  return info.param->name() == "ipsec-mb" ? "IpsecMb" : "OpenSsl";
}

inline Octets from_hex(std::string_view hex) {
  Octets octets;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
    octets.push_back(
        static_cast<std::uint8_t>(std::stoul(std::string(hex.substr(i, 2)), nullptr, 16)));
  return octets;
}

// pattern is `size` octets that differ from their neighbours.
inline Octets pattern(std::size_t size, unsigned seed = 1) {
  Octets octets(size);
  for (std::size_t i = 0; i < size; ++i) octets[i] = static_cast<std::uint8_t>(i * 73 + seed * 29);
  return octets;
}

// clear_packet is an IP packet of that family with `payload` octets of TCP.
inline Octets clear_packet(std::uint8_t family, std::size_t payload) {
  const std::size_t header = family == 4 ? kIpv4Header : kIpv6Header;
  Octets packet = pattern(header + payload);
  packet[0] = family == 4 ? 0x45 : 0x60;
  packet[6] = 0x40;  // IPv4: DF, no fragment; IPv6: next header, set below
  packet[7] = 0;
  wire::set_ip_payload(packet,
                       {.family = family, .header_length = static_cast<std::uint16_t>(header)},
                       payload, wire::kProtocolTcp);
  return packet;
}

}  // namespace psp::crypto::test
