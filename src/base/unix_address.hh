// SPDX-License-Identifier: Apache-2.0
//
// UnixAddress: the address of a unix socket by its name (see unix_address.h), ready for bind(2) and
// connect(2). There is none that is not valid: a name that makes no address is seen where it is
// parsed, and not by what a system call says of it later. For all C++ that listens or connects.
#pragma once

#include <optional>
#include <string_view>

#include "base/unix_address.h"

namespace psp {

class UnixAddress {
 public:
  // parse gives nothing for a name that is empty or too long for an address.
  static std::optional<UnixAddress> parse(std::string_view name) {
    UnixAddress address;
    address.length_ = psp_unix_address(name.data(), name.size(), &address.name_);
    if (address.length_ == 0) return std::nullopt;
    return address;
  }

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&name_); }
  socklen_t length() const { return length_; }
  // path is null for an abstract address.
  const char* path() const { return name_.sun_path[0] != '\0' ? name_.sun_path : nullptr; }

 private:
  sockaddr_un name_{};
  socklen_t length_ = 0;
};

}  // namespace psp
