// SPDX-License-Identifier: Apache-2.0
//
// A socket whose connection is over, or was none yet, and that connects all the same: the kernel
// lets it, and what it had of keys is still its.
//
// Threading: any.
#pragma once

#include <arpa/inet.h>
#include <cerrno>
#include <fcntl.h>
#include <netinet/in.h>
#include <string>
#include <sys/socket.h>

#include "lab.hh"

namespace psp::lab {

// connect_to lets a socket of A connect to a port of B where nobody listens, or to nobody: that
// disconnects it. Returns the errno.
inline int connect_to(int fd, Kind kind, bool to_nobody) {
  constexpr std::uint16_t kPort = 7100;
  const bool v6 = kind == Kind::kIpv6;
  const std::string address = Lab::address(From::kB, kind);
  sockaddr_storage to{};
  socklen_t size = v6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  auto& v4_to = reinterpret_cast<sockaddr_in&>(to);
  v4_to.sin_port = htons(kPort);  // where IPv6 has it too
  ::inet_pton(
      v6 ? AF_INET6 : AF_INET, address.c_str(),
      v6 ? static_cast<void*>(&reinterpret_cast<sockaddr_in6&>(to).sin6_addr) : &v4_to.sin_addr);
  to.ss_family = static_cast<sa_family_t>(to_nobody ? AF_UNSPEC : v6 ? AF_INET6 : AF_INET);
  ::fcntl(fd, F_SETFL, O_NONBLOCK);
  return ::connect(fd, reinterpret_cast<sockaddr*>(&to), size) == 0 ? 0 : errno;
}

}  // namespace psp::lab
