// SPDX-License-Identifier: Apache-2.0
//
// What all upgrades share, and the choice of one by its protocol.
#include <algorithm>
#include <cstring>

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
    early_.erase(early_.begin(), early_.begin() + static_cast<std::ptrdiff_t>(early_read_));
    early_read_ = 0;
  }
  early_.insert(early_.end(), octets.begin(), octets.end());
}

std::size_t Upgrade::read(std::span<std::uint8_t> to) {
  const std::size_t size = std::min(to.size(), pending());
  if (size > 0) std::memcpy(to.data(), early_.data() + early_read_, size);
  early_read_ += size;
  if (pending() == 0) {
    early_.clear();
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
