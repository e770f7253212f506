// SPDX-License-Identifier: Apache-2.0
//
// An IPv6 address wants brackets. Without them the last group could be meant as a port, and a proxy
// that connects somewhere else is worse than one that refuses.
//
// Threading: any.
#include "host_port.hh"

#include <fmt/format.h>

namespace psp::proxy {

std::expected<HostPort, std::string> parse_host_port(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon + 1 == text.size())
    return std::unexpected(fmt::format("\"{}\" has no port; write HOST:PORT", text));
  std::string_view host = text.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  else if (host.find(':') != std::string_view::npos)
    return std::unexpected(
        fmt::format("\"{}\" is ambiguous; write [{}]:{}", text, host, text.substr(colon + 1)));
  return HostPort{std::string(host), std::string(text.substr(colon + 1))};
}

}  // namespace psp::proxy
