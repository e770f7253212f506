// SPDX-License-Identifier: Apache-2.0
//
// Addresses are replaced as a whole, under a lock that is held for the length of a pointer: a
// session that is going through the list keeps the one that it began with. If the resolver fails,
// those found before stay.
#include "target.hh"

namespace psp::proxy {

std::expected<void, std::string> Target::refresh() {
  auto found = resolve(name_.host, name_.port);
  if (!found) return std::unexpected(found.error());
  auto fresh = std::make_shared<const std::vector<SocketAddress>>(std::move(*found));
  const std::lock_guard lock(mutex_);
  addresses_ = std::move(fresh);
  return {};
}

Target::Addresses Target::addresses() const {
  const std::lock_guard lock(mutex_);
  return addresses_;
}

}  // namespace psp::proxy
