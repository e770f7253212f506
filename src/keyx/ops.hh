// SPDX-License-Identifier: Apache-2.0
//
// What the key exchange asks of PSP, as an interface: psp::Client stands behind it in programs
// (client_ops.hh), a model with faults in tests. Who serves PSP, and how it is asked, the exchange
// does not know.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "keyx/message.hh"
#include "netlink/error.hh"
#include "netlink/messages/psp.hh"
#include "wire/types.hh"

namespace psp::keyx {

// Availability is what this host can receive on one connection.
struct Availability {
  VersionSet versions = {};  // cap and ena of the connection's device
  Absence absence = Absence::kNone;
  std::string reason = {};  // one sentence with what to do, where `versions` is empty
};

// Ends are the two ends of a connection as they are on the wire, the same octets whoever writes
// them: the address, 16 octets (IPv4 as ::ffff:a.b.c.d), and the port, big-endian.
using End = std::array<std::uint8_t, 18>;
struct Ends {
  End local{}, remote{};
};

// PspOps is PSP as the exchange needs it. Calls do not wait for the peer.
class PspOps {
 public:
  virtual ~PspOps() = default;

  // ends asks the socket.
  virtual ClientResult<Ends> ends(int fd);
  // available says what can be received on the connected socket `fd`.
  virtual Availability available(int fd) = 0;
  virtual ClientResult<RxAssocInfo> rx_assoc(int fd, Version version) = 0;
  // tx_assoc fails with EBUSY while data that came in clear waits in the receive queue.
  virtual ClientResult<void> tx_assoc(int fd, Version version, const KeyInfo& tx) = 0;
};

}  // namespace psp::keyx
