// SPDX-License-Identifier: Apache-2.0
//
// What all upgrades share: the names of the protocols, the application's octets that came too
// early, urgent data. Early octets are the application's own and perhaps secret: what was read is
// wiped at once, the rest when it goes. SO_OOBINLINE is set before our key goes out and stays,
// since a clear segment of anybody could else take an octet out of the PSP stream
// (docs/semantics.md, "The urgent pointer").
#include "keyx/upgrade.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <sys/socket.h>
#include <utility>

#include "base/socket_options.hh"

namespace psp::keyx {

std::string_view name(Protocol protocol) {
  switch (protocol) {
    case Protocol::kSoftpsp:
      return "softpsp";
    case Protocol::kFizzV0:
      return "fizz-v0";
    case Protocol::kKernelSelftest:
      return "kernel-selftest";
  }
  return "";
}

std::optional<Protocol> parse_protocol(std::string_view text) {
  for (Protocol protocol : {Protocol::kSoftpsp, Protocol::kFizzV0, Protocol::kKernelSelftest})
    if (text == name(protocol)) return protocol;
  return std::nullopt;
}

void Upgrade::keep_early(std::span<const std::uint8_t> octets) {
  // A caller that always leaves an octet must not make this grow: at most half of it is read.
  if (early_read_ > early_.size() / 2) {
    early_ = crypto::WipedVector(early_.begin() + static_cast<std::ptrdiff_t>(early_read_),
                                 early_.end());
    early_read_ = 0;
  }
  early_.insert(early_.end(), octets.begin(), octets.end());
}

std::optional<Error> Upgrade::keep_urgent_inline(int fd) {
  if (get_option<int>(fd, SOL_SOCKET, SO_OOBINLINE).value_or(0) != 0) return std::nullopt;
  if (!set_option(fd, SOL_SOCKET, SO_OOBINLINE, 1))
    return Error{ErrorCode::kUsage, errno,
                 fmt::format("urgent data cannot be kept in the stream (SO_OOBINLINE): {}",
                             std::strerror(errno))};
  urgent_changed_ = true;
  return std::nullopt;
}

void Upgrade::urgent_as_before(int fd) {
  if (std::exchange(urgent_changed_, false)) (void)set_option(fd, SOL_SOCKET, SO_OOBINLINE, 0);
}

std::size_t Upgrade::read(std::span<std::uint8_t> to) {
  const std::size_t size = std::min(to.size(), pending());
  if (size > 0) {
    std::memcpy(to.data(), early_.data() + early_read_, size);
    explicit_bzero(early_.data() + early_read_, size);
  }
  early_read_ += size;
  if (pending() == 0) {
    early_ = crypto::WipedVector();
    early_read_ = 0;
  }
  return size;
}

}  // namespace psp::keyx
