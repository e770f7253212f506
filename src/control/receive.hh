// SPDX-License-Identifier: Apache-2.0
//
// Receiving one datagram of a client with all that came beside it. Descriptors have an owner from
// the moment they are here, whatever becomes of the message: none stays behind, and whoever closes
// them can see to it that this does not wait (Closer).
//
// Threading: the control thread only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/unique_fd.hh"

namespace psp::control {

// Received is one datagram and all that came with it.
struct Received {
  enum class Kind {
    kDatagram,
    kNothing,  // there is none yet
    kEnd,      // of the connection
    kBroken,   // cut off, or not as a client of ours would send it
  } kind = Kind::kNothing;
  std::span<std::uint8_t> octets{};
  std::vector<UniqueFd> fds{};
};

// receive takes one datagram into `room`. The socket has SO_PASSCRED: an empty message carries
// credentials, the end of the connection does not.
Received receive(int fd, std::span<std::uint8_t> room);

}  // namespace psp::control
