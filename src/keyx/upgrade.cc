// SPDX-License-Identifier: Apache-2.0
//
// What all upgrades share, and the choice of one by its protocol.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <sys/socket.h>
#include <utility>

#include <psp/keyx/exchange.hh>
#include <psp/keyx/upgrade.hh>

#include "interop.hh"

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
  int now = 0;
  socklen_t size = sizeof now;
  if (getsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &now, &size) == 0 && now != 0) return std::nullopt;
  const int on = 1;
  if (setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on) != 0)
    return Error{ErrorCode::kUsage, errno,
                 fmt::format("urgent data cannot be kept in the stream (SO_OOBINLINE): {}",
                             std::strerror(errno))};
  urgent_changed_ = true;
  return std::nullopt;
}

void Upgrade::urgent_as_before(int fd) {
  const int off = 0;
  if (std::exchange(urgent_changed_, false))
    setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &off, sizeof off);
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

std::unique_ptr<Upgrade> make_upgrade(SSL* ssl, PspOps& ops, const Policy& policy) {
  if (policy.protocol == Protocol::kSoftpsp) return std::make_unique<Exchange>(ssl, ops, policy);
  return std::make_unique<FizzV0>(ssl, ops, policy);
}

std::unique_ptr<Upgrade> make_clear_upgrade(int fd, PspOps& ops, const Policy& policy) {
  return std::make_unique<KernelSelftest>(fd, ops, policy);
}

}  // namespace psp::keyx
