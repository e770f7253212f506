// SPDX-License-Identifier: Apache-2.0
//
// Forwarder: what programs under libpsp-genl.so sent on their netlink sockets. The library hands it
// on in an envelope, with the socket; the Server answers, and the answers go to that socket
// (Delivery), as if the kernel had sent them.
//
// Threading: the control thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <sys/types.h>

#include "base/loop.hh"
#include "base/unique_fd.hh"
#include "netlink/server.hh"

#include "delivery.hh"
#include "envelope.hh"

namespace psp::control {

class Forwarder {
 public:
  // `home_netns` is the cookie of this thread's network namespace.
  Forwarder(Loop& loop, netlink::Server& server, std::uint64_t home_netns)
      : server_(server), delivery_(loop, home_netns) {}

  // MayAdminister: has the sender CAP_NET_ADMIN, as far as the messages ask for it?
  using MayAdminister = std::function<bool(std::span<const std::uint8_t> messages)>;

  // open does what an envelope asks for and returns the reply to the library. `fds` came with it:
  // the program's netlink socket, then perhaps the socket to be secured. They are borrowed.
  netlink::Datagram open(const Envelope& envelope, std::span<UniqueFd> fds, uid_t uid,
                         const MayAdminister& may);

  // multicast sends a notification to the members in a namespace.
  void multicast(std::uint32_t group_bit, std::uint64_t netns, const netlink::Datagram& message) {
    delivery_.multicast(group_bit, netns, message);
  }

 private:
  // Sender is the program that a message is from.
  struct Sender {
    const Delivery::Target& target;
    int netlink_fd;
    uid_t uid;
  };
  int forward(const Envelope& envelope, const Sender& sender, int sock_fd,
              const MayAdminister& may);
  int forward_renamed(const Envelope& envelope, const Sender& sender, int sock_fd,
                      const MayAdminister& may);
  int dump(const Envelope& envelope, const Sender& sender, netlink::Caller caller, int sock_fd);
  void send(const Envelope& envelope, const Sender& sender, netlink::Datagram answer);

  netlink::Server& server_;
  Delivery delivery_;
};

}  // namespace psp::control
