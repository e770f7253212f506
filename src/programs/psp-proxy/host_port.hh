// SPDX-License-Identifier: Apache-2.0
//
// HostPort: HOST:PORT as a user writes it, taken apart. What the resolver makes of it is a
// SocketAddress (base/socket_address.hh); workers must not wait for that: they use what Target has
// found (target.hh).
//
// Threading: any.
#pragma once

#include <expected>
#include <string>
#include <string_view>

namespace psp::proxy {

// HostPort is "host:port", "[2001:db8::1]:port" or ":port", taken apart.
struct HostPort {
  std::string host;  // empty: every address
  std::string port;  // a number or the name of a service
};

// parse_host_port is an error text, the end of a sentence, if `text` is not of that form.
std::expected<HostPort, std::string> parse_host_port(std::string_view text);

}  // namespace psp::proxy
