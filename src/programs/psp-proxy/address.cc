// SPDX-License-Identifier: Apache-2.0
//
// HOST:PORT as a user writes it, and addresses as the resolver gives them. IPv4 peers of an IPv6
// socket are shown, and told apart, as IPv4: else all of them would be neighbours in one network to
// limits that count by source.
//
// An IPv6 address wants brackets. Without them the last group could be meant as a port, and a proxy
// that connects somewhere else is worse than one that refuses.
#include "address.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <memory>
#include <netdb.h>
#include <netinet/in.h>

#include "base/v4_mapped.hh"

namespace psp::proxy {
namespace {

struct AddrinfoDeleter {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};

}  // namespace

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

Address Address::unmapped() const {
  if (family() != AF_INET6) return *this;
  sockaddr_in6 in6{};
  std::memcpy(&in6, &storage, sizeof in6);
  const auto* v4 = v4_of(&in6.sin6_addr);
  if (v4 == nullptr) return *this;
  sockaddr_in in4{};
  in4.sin_family = AF_INET;
  in4.sin_port = in6.sin6_port;
  std::memcpy(&in4.sin_addr, v4, sizeof in4.sin_addr);
  Address out{.size = sizeof in4};
  std::memcpy(&out.storage, &in4, sizeof in4);
  return out;
}

bool Address::loopback() const {
  const Address plain = unmapped();
  if (plain.family() == AF_INET) {
    sockaddr_in in4{};
    std::memcpy(&in4, &plain.storage, sizeof in4);
    return (ntohl(in4.sin_addr.s_addr) >> 24) == IN_LOOPBACKNET;
  }
  sockaddr_in6 in6{};
  std::memcpy(&in6, &plain.storage, sizeof in6);
  return plain.family() == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&in6.sin6_addr);
}

std::string Address::text() const {
  const Address plain = unmapped();
  char host[NI_MAXHOST], port[NI_MAXSERV];
  if (getnameinfo(plain.get(), plain.size, host, sizeof host, port, sizeof port,
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return "?";
  return plain.family() == AF_INET6 ? fmt::format("[{}]:{}", host, port)
                                    : fmt::format("{}:{}", host, port);
}

std::expected<std::vector<Address>, std::string> resolve(const HostPort& name, bool to_listen) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = to_listen ? AI_PASSIVE : 0;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(name.host.empty() ? nullptr : name.host.c_str(), name.port.c_str(),
                                &hints, &list);
  if (error != 0)
    return std::unexpected(
        fmt::format("cannot resolve {}:{}: {}", name.host, name.port,
                    error == EAI_SYSTEM ? std::strerror(errno) : gai_strerror(error)));
  const std::unique_ptr<addrinfo, AddrinfoDeleter> owner(list);
  std::vector<Address> out;
  for (const addrinfo* a = list; a != nullptr; a = a->ai_next) {
    Address address{.size = a->ai_addrlen};
    std::memcpy(&address.storage, a->ai_addr, a->ai_addrlen);
    out.push_back(address);
  }
  return out;
}

}  // namespace psp::proxy
