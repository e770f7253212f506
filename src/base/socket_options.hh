// SPDX-License-Identifier: Apache-2.0
//
// getsockopt(2) and setsockopt(2) for options of a fixed size, and the option that more than one
// layer asks for: the cookie by which a network namespace is known.
//
// Threading: any; a call is one system call.
#pragma once

#include <cerrno>
#include <cstdint>
#include <optional>

#include "base/socket_options.h"

namespace psp {

// get_option is an option's value; nothing, with errno, if the socket does not have it.
template <typename T>
[[nodiscard]] std::optional<T> get_option(int fd, int level, int name) {
  T value{};
  socklen_t length = sizeof value;
  if (::getsockopt(fd, level, name, &value, &length) != 0) return std::nullopt;
  return value;
}

// set_option gives an option a value. False, with errno: the kernel refuses.
template <typename T>
[[nodiscard]] bool set_option(int fd, int level, int name, const T& value) {
  return ::setsockopt(fd, level, name, &value, sizeof value) == 0;
}

// netns_cookie names the network namespace of a socket for as long as the host runs; 0, with errno:
// the kernel does not tell.
inline std::uint64_t netns_cookie(int socket) {
  return get_option<std::uint64_t>(socket, SOL_SOCKET, SO_NETNS_COOKIE).value_or(0);
}

// pending_error takes the error that waits at a socket, 0 if there is none.
inline int pending_error(int fd) {
  const auto error = get_option<int>(fd, SOL_SOCKET, SO_ERROR);
  return error ? *error : errno;
}

}  // namespace psp
