// SPDX-License-Identifier: Apache-2.0
#include "target.hh"

namespace psp::proxy {

std::expected<void, std::string> Target::refresh() {
  auto found = resolve(name_, false);
  if (!found) return std::unexpected(found.error());
  auto fresh = std::make_shared<const std::vector<Address>>(std::move(*found));
  const std::lock_guard lock(mutex_);
  addresses_ = std::move(fresh);
  return {};
}

Target::Addresses Target::addresses() const {
  const std::lock_guard lock(mutex_);
  return addresses_;
}

}  // namespace psp::proxy
