// SPDX-License-Identifier: Apache-2.0
//
// A name without a host listens on all addresses: by one IPv6 socket where the host has IPv6, else
// by IPv4. Other names listen on each of their addresses that this host has.
//
// An address that the host lacks, or a family, is passed over as long as another one works: names
// often have addresses of both. Any other error ends it: to listen on a part of what was asked for,
// in silence, would be found out too late.
#include "socket.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "base/socket_options.hh"

namespace psp::proxy {
namespace {

// listen_at is an errno where it fails. `both`: an IPv6 wildcard that takes IPv4 as well.
std::expected<UniqueFd, int> listen_at(const SocketAddress& address, bool both) {
  UniqueFd fd(socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return std::unexpected(errno);
  (void)set_option(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (address.family() == AF_INET6 &&
      !set_option(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, both ? 0 : 1))
    return std::unexpected(errno);
  if (bind(fd.get(), address.get(), address.size) != 0 || listen(fd.get(), SOMAXCONN) != 0)
    return std::unexpected(errno);
  return fd;
}

}  // namespace

std::expected<std::vector<UniqueFd>, std::string> listen_on(const HostPort& name) {
  auto addresses = resolve(name.host, name.port, AF_UNSPEC, AI_PASSIVE);
  if (!addresses) return std::unexpected(addresses.error());
  const bool any = name.host.empty();
  // One IPv6 socket serves both families, where the host has IPv6.
  if (any)
    std::ranges::partition(*addresses,
                           [](const SocketAddress& a) { return a.family() == AF_INET6; });
  std::vector<UniqueFd> out;
  std::string problem;
  for (const SocketAddress& address : *addresses) {
    auto fd = listen_at(address, any);
    if (fd) {
      out.push_back(std::move(*fd));
      if (any) break;
    } else if (fd.error() != EAFNOSUPPORT && fd.error() != EADDRNOTAVAIL) {
      return std::unexpected(
          fmt::format("cannot listen on {}: {}", address.text(), std::strerror(fd.error())));
    } else {
      problem = fmt::format("cannot listen on {}: {}", address.text(), std::strerror(fd.error()));
    }
  }
  if (out.empty()) return std::unexpected(problem);
  return out;
}

void prepare(int fd) {
  constexpr int kIdleS = 60, kIntervalS = 15, kProbes = 4;
  (void)set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  (void)set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  (void)set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, kIdleS);
  (void)set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, kIntervalS);
  (void)set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, kProbes);
  // splice() stops before an urgent octet; in line, an ordinary read gets past it.
  (void)set_option(fd, SOL_SOCKET, SO_OOBINLINE, 1);
}

std::expected<UniqueFd, int> begin_connect(const SocketAddress& to) {
  UniqueFd fd(socket(to.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return std::unexpected(errno);
  prepare(fd.get());
  if (connect(fd.get(), to.get(), to.size) != 0 && errno != EINPROGRESS)
    return std::unexpected(errno);
  return fd;
}

void reset_on_close(int fd) {
  const linger now{.l_onoff = 1, .l_linger = 0};
  (void)set_option(fd, SOL_SOCKET, SO_LINGER, now);
}

SocketAddress local_address(int fd) {
  SocketAddress out{.size = sizeof out.storage};
  if (getsockname(fd, out.get(), &out.size) != 0) return {};
  return out;
}

}  // namespace psp::proxy
