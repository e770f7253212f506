// SPDX-License-Identifier: Apache-2.0
//
// The addresses of a connected socket as they are on the wire: IPv4 is IPv4 there, also where the
// socket is an IPv6 one. Asked of the kernel each time and never kept: a socket can be connected
// anew. For the route (route.cc) and for what START proves (PspOps::ends).
//
// Threading: any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

namespace psp::keyx {

// IpEnd is an IPv4 or IPv6 address with a port; IPv4 in IPv6 is IPv4, as it is on the wire.
struct IpEnd {
  int family = 0;
  std::size_t size = 0;  // of the address, in octets
  unsigned char octets[16] = {};
  unsigned scope = 0;
  std::uint16_t port = 0;
};

struct Addresses {
  IpEnd local, remote;
};

// addresses_of is nullopt where `fd` is no connected IP socket.
std::optional<Addresses> addresses_of(int fd);

}  // namespace psp::keyx
