// SPDX-License-Identifier: Apache-2.0
//
// An operation that was refused: the kernel's errno, its extack text and the attribute it points
// at. Maps one to one to a netlink error message, and knows nothing of netlink: netlink/request.cc
// finds the attribute's number and place. Programs see all three, so they are the kernel's to the
// letter (docs/compatibility.md, "Errors"). Of the device layer and all that it asks from above:
// sockets, netdevs, the inspector.
#pragma once

#include <cstdint>
#include <expected>

namespace psp::device {

// Field is the part of a request that an error is about.
enum class Field : std::uint8_t {
  kNone,
  kId,           // dev.id
  kIfindex,      // dev.ifindex
  kNsid,         // dev.nsid
  kVersionsEna,  // dev.psp-versions-ena
  kDevId,        // assoc.dev-id
  kVersion,      // assoc.version
  kSockFd,       // assoc.sock-fd
  kTxKey,        // assoc.tx-key
  kKey,          // keys.key inside tx-key
  kSpi,          // keys.spi inside tx-key
};

struct Error {
  int sys_errno = 0;
  const char* text = "";  // extack text, empty where the kernel gives none; static storage
  Field field = Field::kNone;
  bool missing = false;  // the field is missing (miss-type), else it is wrong (bad attribute)
};

template <typename T>
using Result = std::expected<T, Error>;

inline std::unexpected<Error> fail(int sys_errno, const char* text = "",
                                   Field field = Field::kNone) {
  return std::unexpected(Error{sys_errno, text, field, false});
}
inline std::unexpected<Error> fail_missing(Field field) {
  return std::unexpected(Error{22 /* EINVAL */, "", field, true});
}

}  // namespace psp::device
