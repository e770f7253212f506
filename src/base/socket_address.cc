// SPDX-License-Identifier: Apache-2.0
//
// getaddrinfo and getnameinfo, each in this one place. What is numeric for the reader is asked for
// as numbers: no name is looked up to show an address.
//
// Threading: any.
#include "base/socket_address.hh"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <memory>
#include <netdb.h>
#include <netinet/in.h>

#include "base/v4_mapped.hh"

namespace psp {
namespace {

struct AddrinfoDeleter {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};

}  // namespace

SocketAddress SocketAddress::unmapped() const {
  if (family() != AF_INET6) return *this;
  sockaddr_in6 in6{};
  std::memcpy(&in6, &storage, sizeof in6);
  const auto* v4 = v4_of(&in6.sin6_addr);
  if (v4 == nullptr) return *this;
  sockaddr_in in4{};
  in4.sin_family = AF_INET;
  in4.sin_port = in6.sin6_port;
  std::memcpy(&in4.sin_addr, v4, sizeof in4.sin_addr);
  SocketAddress out{.size = sizeof in4};
  std::memcpy(&out.storage, &in4, sizeof in4);
  return out;
}

bool SocketAddress::loopback() const {
  const SocketAddress plain = unmapped();
  if (plain.family() == AF_INET) {
    sockaddr_in in4{};
    std::memcpy(&in4, &plain.storage, sizeof in4);
    return (ntohl(in4.sin_addr.s_addr) >> 24) == IN_LOOPBACKNET;
  }
  sockaddr_in6 in6{};
  std::memcpy(&in6, &plain.storage, sizeof in6);
  return plain.family() == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&in6.sin6_addr);
}

std::string SocketAddress::text() const {
  const SocketAddress plain = unmapped();
  char port[NI_MAXSERV];
  if (getnameinfo(plain.get(), plain.size, nullptr, 0, port, sizeof port, NI_NUMERICSERV) != 0)
    return "?";
  return plain.family() == AF_INET6 ? fmt::format("[{}]:{}", plain.host(), port)
                                    : fmt::format("{}:{}", plain.host(), port);
}

std::string SocketAddress::host() const {
  const SocketAddress plain = unmapped();
  char host[NI_MAXHOST];
  return getnameinfo(plain.get(), plain.size, host, sizeof host, nullptr, 0, NI_NUMERICHOST) == 0
             ? host
             : "?";
}

std::expected<std::vector<SocketAddress>, std::string> resolve(const std::string& host,
                                                               const std::string& port, int family,
                                                               int flags) {
  addrinfo hints{};
  hints.ai_family = family;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host.empty() ? nullptr : host.c_str(), port.c_str(), &hints, &list);
  if (error != 0)
    return std::unexpected(
        fmt::format("cannot resolve {}:{}: {}", host, port,
                    error == EAI_SYSTEM ? std::strerror(errno) : gai_strerror(error)));
  const std::unique_ptr<addrinfo, AddrinfoDeleter> owner(list);
  std::vector<SocketAddress> out;
  for (const addrinfo* one = list; one != nullptr; one = one->ai_next) {
    SocketAddress address{.size = one->ai_addrlen};
    std::memcpy(&address.storage, one->ai_addr, one->ai_addrlen);
    out.push_back(address);
  }
  return out;
}

}  // namespace psp
