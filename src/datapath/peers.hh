// SPDX-License-Identifier: Apache-2.0
//
// Peers: whose PSP packets are taken, for hosts whose administrator would have a firewall say so
// (no firewall of the host sees them sealed).
//
// Threading: constant once made.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace psp::datapath {

// Network is addresses that begin alike.
struct Network {
  std::array<std::uint8_t, 16> prefix{};  // IPv4 as ::ffff:a.b.c.d
  unsigned bits = 0;                      // of the 128

  // parse reads "10.0.0.0/8", "fd00::/8", or an address alone. Bits behind the prefix must be 0.
  static std::optional<Network> parse(const std::string& text);
  bool has(const std::array<std::uint8_t, 16>& address) const;
  friend bool operator==(const Network&, const Network&) = default;
};

class Peers {
 public:
  Peers() = default;  // all there are
  explicit Peers(std::vector<Network> networks) : networks_(std::move(networks)) {}
  // allow: the source address of the IP header at `ip`, of that family.
  bool allow(const std::uint8_t* ip, unsigned family) const;

 private:
  std::vector<Network> networks_;
};

}  // namespace psp::datapath
