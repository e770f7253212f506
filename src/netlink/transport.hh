// SPDX-License-Identifier: Apache-2.0
//
// How a client's datagrams travel: a NETLINK_GENERIC socket to the kernel, or a unix SOCK_SEQPACKET
// socket to pspd with descriptors as SCM_RIGHTS.
// Threading: one user at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <span>
#include <string>
#include <unistd.h>
#include <utility>

#include "base/unique_fd.hh"
#include "netlink/error.hh"

namespace psp::netlink {

// kAnswerTimeout is how long a request waits for its answer.
inline constexpr std::chrono::seconds kAnswerTimeout{5};

// Transport is one connection.
class Transport {
 public:
  // open_kernel: a netlink socket with NETLINK_EXT_ACK.
  static ClientResult<Transport> open_kernel();
  // open_daemon connects to pspd and checks whom it runs as (EPERM).
  static ClientResult<Transport> open_daemon(const std::string& socket);

  bool is_kernel() const { return kernel_; }
  int fd() const { return fd_.get(); }
  // peer is who answers, for messages: "the kernel" or "pspd".
  const char* peer() const { return kernel_ ? "the kernel" : "pspd"; }

  // send sends one datagram, and `attached` with it if it is not -1 (to the kernel it is only a
  // number in the message, so it does not travel).
  ClientResult<void> send(std::span<const std::uint8_t> datagram, int attached);
  // receive waits up to kAnswerTimeout for a datagram. Errors: ETIMEDOUT, ECONNRESET (pspd is
  // gone), EMSGSIZE, ENOBUFS (notifications were lost).
  ClientResult<std::size_t> receive(std::span<std::uint8_t> buffer);
  // join adds the kernel socket to a multicast group.
  ClientResult<void> join(std::uint32_t group);

 private:
  Transport(UniqueFd fd, bool kernel) : fd_(std::move(fd)), kernel_(kernel) {}
  UniqueFd fd_;
  bool kernel_;
};

}  // namespace psp::netlink
