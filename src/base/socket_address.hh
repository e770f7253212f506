// SPDX-License-Identifier: Apache-2.0
//
// SocketAddress: an address of TCP/IP as the kernel wants it, as the resolver gives it and as
// people read it. IPv4 peers of an IPv6 socket are shown, and told apart, as IPv4: else all of them
// would be neighbours in one network to limits that count by source.
//
// resolve() asks the resolver and waits, for as long as DNS likes.
#pragma once

#include <expected>
#include <string>
#include <sys/socket.h>
#include <vector>

namespace psp {

struct SocketAddress {
  sockaddr_storage storage = {};
  socklen_t size = 0;

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  int family() const { return storage.ss_family; }
  bool loopback() const;
  // unmapped is the IPv4 address where this is one in the dress of IPv6.
  SocketAddress unmapped() const;
  std::string text() const;  // "192.0.2.1:7000", "[2001:db8::1]:7000"
  std::string host() const;  // the same without the port: "192.0.2.1", "2001:db8::1"
};

// resolve gives the addresses of a host and a TCP port (a number or the name of a service), of one
// family or all. `flags` are getaddrinfo's; with AI_PASSIVE an empty host is every address. Errors:
// a sentence.
std::expected<std::vector<SocketAddress>, std::string> resolve(const std::string& host,
                                                               const std::string& port,
                                                               int family = AF_UNSPEC,
                                                               int flags = 0);

}  // namespace psp
