// SPDX-License-Identifier: Apache-2.0
//
// Networks as people write them, and the two families as one: an IPv4 address is compared in its
// mapped form, so that a packet costs no more than one comparison for each network of the list.
//
// Threading: see peers.hh.
#include "peers.hh"

#include <algorithm>
#include <arpa/inet.h>
#include <charconv>
#include <span>

#include "base/v4_mapped.hh"

namespace psp::datapath {

std::optional<Network> Network::parse(const std::string& text) {
  const std::size_t slash = text.find('/');
  const std::string address = text.substr(0, slash);
  Network network;
  unsigned most = 128;
  if (inet_pton(AF_INET6, address.c_str(), network.prefix.data()) != 1) {
    most = 32;
    std::array<std::uint8_t, 4> v4{};
    if (inet_pton(AF_INET, address.c_str(), v4.data()) != 1) return std::nullopt;
    network.prefix = to_address16(v4);
  }
  network.bits = most;
  if (slash != std::string::npos) {
    const char* end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data() + slash + 1, end, network.bits);
    if (error != std::errc() || rest != end || network.bits > most) return std::nullopt;
  }
  network.bits += 128 - most;
  for (unsigned bit = network.bits; bit < 128; bit++)
    if (network.prefix[bit / 8] & 0x80 >> bit % 8) return std::nullopt;
  return network;
}

bool Network::has(const std::array<std::uint8_t, 16>& address) const {
  const std::size_t whole = bits / 8;
  if (!std::equal(prefix.begin(), prefix.begin() + static_cast<std::ptrdiff_t>(whole),
                  address.begin()))
    return false;
  return bits % 8 == 0 || ((prefix[whole] ^ address[whole]) >> (8 - bits % 8)) == 0;
}

bool Peers::allow(const std::uint8_t* ip, unsigned family) const {
  if (networks_.empty()) return true;
  const Address16 address =
      to_address16(family == 4 ? std::span(ip + 12, 4) : std::span(ip + 8, 16));
  return std::ranges::any_of(networks_,
                             [&](const Network& network) { return network.has(address); });
}

}  // namespace psp::datapath
