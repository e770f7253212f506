// SPDX-License-Identifier: Apache-2.0
//
// Addresses as people write them, as the kernel wants them and as logs show them: one form of each,
// for the whole program.
//
// resolve() asks the resolver and waits, for as long as DNS likes. Workers must not: they use what
// Target has found (target.hh).
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <vector>

namespace psp::proxy {

// HostPort is "host:port", "[2001:db8::1]:port" or ":port", taken apart.
struct HostPort {
  std::string host;  // empty: every address
  std::string port;  // a number or the name of a service
};

// parse_host_port is an error text, the end of a sentence, if `text` is not of that form.
std::expected<HostPort, std::string> parse_host_port(std::string_view text);

// Address is one socket address.
struct Address {
  sockaddr_storage storage = {};
  socklen_t size = 0;

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  int family() const { return storage.ss_family; }
  bool loopback() const;
  // unmapped is the IPv4 address where this is one in the dress of IPv6.
  Address unmapped() const;
  std::string text() const;  // "192.0.2.1:7000", "[2001:db8::1]:7000"
};

// resolve asks the resolver, and waits for it. `to_listen`: an empty host is every address.
std::expected<std::vector<Address>, std::string> resolve(const HostPort& name, bool to_listen);

}  // namespace psp::proxy
