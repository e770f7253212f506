// SPDX-License-Identifier: Apache-2.0
//
// Association: one secured socket as the core knows it (the kernel's psp_assoc). Its Rx side is an
// identity and no key, for that key is derived from the SPI; its Tx key lies with the driver, under
// a handle. What the socket itself carries of it is struct psp_sock (device/socket_state.h).
#pragma once

#include <compare>
#include <cstdint>
#include <optional>

#include "device/sa/sa_id.h"
#include "wire/types.hh"

namespace psp::device {

// NetdevKey names a network device: ifindexes of two network namespaces may be the same number.
struct NetdevKey {
  std::uint64_t netns = 0;  // the namespace's cookie (SO_NETNS_COOKIE)
  std::uint32_t ifindex = 0;
  friend auto operator<=>(const NetdevKey&, const NetdevKey&) = default;
};

// Association is one secured socket.
struct Association {
  std::uint64_t cookie = 0;  // of the socket
  psp_sa_id rx{};            // what it receives under
  NetdevKey netdev{};        // the device's that the socket's route led to at rx-assoc, else one in
                             // the socket's namespace: the keys are those of that namespace
  bool stale = false;    // the device key that rx was handed out under is gone: nothing can match
  bool revoked = false;  // and its Tx key, if it had one: it gets no other (drop_keys)
  bool ended = false;    // the connection is over; kept for what TIME_WAIT still answers
  std::optional<Spi> tx_spi{};  // set once tx-assoc succeeded
  std::uint32_t tx_handle = 0;  // the driver's, valid with tx_spi
  std::uint32_t uid = 0;        // whose socket it is: counts for the limit of that user

  Spi rx_spi() const { return Spi{rx.spi}; }
  Version version() const { return static_cast<Version>(rx.version); }
};

}  // namespace psp::device
