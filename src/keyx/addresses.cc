// SPDX-License-Identifier: Apache-2.0
//
// The addresses of a connected socket, for its route and for what START proves: both ends must come
// to the same octets, whichever family their sockets have. So an IPv4 peer of an IPv6 socket is
// IPv4 for the route, and ::ffff:a.b.c.d in START, on both ends (docs/protocol.md, section 7). Ends
// of different families, or none, are no connection that could be secured.
#include "addresses.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <netinet/in.h>
#include <sys/socket.h>

#include "base/v4_mapped.hh"
#include "keyx/ops.hh"
#include "wire/bytes.hh"

namespace psp::keyx {
namespace {

IpEnd to_address(const sockaddr_storage& from) {
  IpEnd out;
  if (from.ss_family == AF_INET) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(from);
    out = {.family = AF_INET, .size = 4, .port = ntohs(in.sin_port)};
    std::memcpy(out.octets, &in.sin_addr, 4);
  } else if (from.ss_family == AF_INET6) {
    const auto& in = reinterpret_cast<const sockaddr_in6&>(from);
    if (const auto* v4 = v4_of(&in.sin6_addr)) {
      out = {.family = AF_INET, .size = 4, .port = ntohs(in.sin6_port)};
      std::memcpy(out.octets, v4, 4);
    } else {
      out = {
          .family = AF_INET6, .size = 16, .scope = in.sin6_scope_id, .port = ntohs(in.sin6_port)};
      std::memcpy(out.octets, &in.sin6_addr, 16);
    }
  }
  return out;
}

// IPv4 is written as IPv6 writes it, ::ffff:a.b.c.d, whatever the family of the socket.
End to_end(const IpEnd& from) {
  End out{};
  std::ranges::copy(to_address16({from.octets, from.size}), out.begin());
  wire::store_be(out.data() + 16, from.port);
  return out;
}

}  // namespace

std::optional<Addresses> addresses_of(int fd) {
  sockaddr_storage local{}, remote{};
  socklen_t local_size = sizeof local, remote_size = sizeof remote;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&local), &local_size) != 0 ||
      getpeername(fd, reinterpret_cast<sockaddr*>(&remote), &remote_size) != 0)
    return std::nullopt;
  Addresses out{to_address(local), to_address(remote)};
  if (out.remote.size == 0 || out.local.family != out.remote.family) return std::nullopt;
  return out;
}

ClientResult<Ends> PspOps::ends(int fd) {
  const auto addresses = addresses_of(fd);
  if (!addresses)
    return client_error(ENOTCONN, "the socket is not, or no more, a connected IP socket");
  return Ends{to_end(addresses->local), to_end(addresses->remote)};
}

}  // namespace psp::keyx
