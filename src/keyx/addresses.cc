// SPDX-License-Identifier: Apache-2.0
//
// The addresses of a connected socket, for its route and for what START proves.
#include "addresses.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <netinet/in.h>
#include <sys/socket.h>

#include <psp/keyx/ops.hh>
#include <psp/wire/bytes.hh>

namespace psp::keyx {
namespace {

Address to_address(const sockaddr_storage& from) {
  Address out;
  if (from.ss_family == AF_INET) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(from);
    out = {.family = AF_INET, .size = 4, .port = ntohs(in.sin_port)};
    std::memcpy(out.octets, &in.sin_addr, 4);
  } else if (from.ss_family == AF_INET6) {
    const auto& in = reinterpret_cast<const sockaddr_in6&>(from);
    if (IN6_IS_ADDR_V4MAPPED(&in.sin6_addr)) {
      out = {.family = AF_INET, .size = 4, .port = ntohs(in.sin6_port)};
      std::memcpy(out.octets, in.sin6_addr.s6_addr + 12, 4);
    } else {
      out = {
          .family = AF_INET6, .size = 16, .scope = in.sin6_scope_id, .port = ntohs(in.sin6_port)};
      std::memcpy(out.octets, &in.sin6_addr, 16);
    }
  }
  return out;
}

// IPv4 is written as IPv6 writes it, ::ffff:a.b.c.d, whatever the family of the socket.
End to_end(const Address& from) {
  End out{};
  if (from.family == AF_INET) out[10] = out[11] = 0xff;
  std::copy_n(from.octets, from.size, out.begin() + static_cast<std::ptrdiff_t>(16 - from.size));
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

std::expected<Ends, OpsError> PspOps::ends(int fd) {
  const auto addresses = addresses_of(fd);
  if (!addresses)
    return std::unexpected(
        OpsError{ENOTCONN, "the socket is not, or no more, a connected IP socket"});
  return Ends{to_end(addresses->local), to_end(addresses->remote)};
}

}  // namespace psp::keyx
