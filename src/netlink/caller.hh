// SPDX-License-Identifier: Apache-2.0
//
// A client as the server must know it. What the transport knows of it (its capabilities, its
// network namespace, its socket's options) it writes here, when the client connects or changes it;
// what the server has to remember between two requests lives here too.
#pragma once

#include <cstdint>
#include <memory>
#include <sys/types.h>

namespace psp::netlink {

class Dump;

// Caller is one connected client. It lives as long as the connection.
struct Caller {
  bool net_admin = false;              // CAP_NET_ADMIN, judged from SO_PEERCRED by the transport
  uid_t uid = static_cast<uid_t>(-1);  // SO_PEERCRED's; -1: not known
  pid_t pid = 0;                       // the same; 0: not known
  std::uint32_t groups = 0;      // bit per multicast group it is a member of: bit 0 mgmt, bit 1 use
  std::uint64_t netns = 0;       // cookie of its network namespace
  bool ext_ack = true;           // NETLINK_EXT_ACK: errors say more than an errno
  bool cap_ack = false;          // NETLINK_CAP_ACK: errors quote no more than the request's header
  bool paced = false;            // the transport calls resume(); else dumps are made at once
  std::shared_ptr<Dump> dump{};  // in progress; the server's own
};

}  // namespace psp::netlink
