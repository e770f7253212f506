// SPDX-License-Identifier: Apache-2.0
//
// Relay: moves octets between the two sockets of a connection, both ways, and carries the end of
// each direction across. It holds a bounded number of octets: while one side does not take them,
// nothing more is read from the other, whose TCP then slows down its sender.
//
// Threading: one thread.
#pragma once

#include <cstdint>
#include <span>

#include "base/unique_fd.hh"

namespace psp::proxy {

// Socket is one side, with what epoll (edge-triggered) has said of it and no call has refuted
// since.
struct Socket {
  UniqueFd fd;
  bool readable = false;
  bool writable = false;
};

class Relay {
 public:
  enum class State {
    kWaiting,  // until a socket becomes ready
    kMore,     // it could go on; it is the turn of others
    kDone,     // both directions have ended, and everything is handed to the kernel
    kBroken,   // see broken()
  };

  virtual ~Relay() = default;
  // turn moves what can be moved now, up to a fair share.
  virtual State turn() = 0;
  // empty tells whether no octet is on its way inside the relay.
  virtual bool empty() const = 0;

  // Octets that were handed to the socket in question.
  virtual std::uint64_t to_peer() const = 0;
  virtual std::uint64_t from_peer() const = 0;

  // Break is which side broke the connection, and why (an errno; 0: it ended TLS without saying
  // so).
  struct Break {
    bool by_peer = false;
    int error = 0;
  };
  const Break& broken() const { return broken_; }

 protected:
  // kShare is how many octets one turn may move each way.
  static constexpr std::uint64_t kShare = 1 << 20;

  Break broken_;
};

}  // namespace psp::proxy
