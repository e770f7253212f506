// SPDX-License-Identifier: Apache-2.0
//
// The TCP connection: connect, or listen and accept one. Sockets come out non-blocking, and with
// TCP_NODELAY: the key exchange is small messages back and forth.
//
// A Deadline bounds what is waited for all together, not each wait: a peer that sends one octet
// every now and then is given up as a silent one is. There is one for connecting, whatever the
// number of addresses, and one for the handshake and the exchange.
#pragma once

#include <chrono>
#include <expected>
#include <poll.h>
#include <string>
#include <unistd.h>
#include <utility>

#include "base/unique_fd.hh"

#include "options.hh"
#include "report.hh"

namespace psp::cat {

// Deadline is a point in time by which something must have happened.
class Deadline {
 public:
  explicit Deadline(std::chrono::milliseconds from_now)
      : end_(std::chrono::steady_clock::now() + from_now) {}
  // left is in milliseconds, 0 when time is up; as poll() wants it.
  int left() const;
  // wait waits for `events` on `fd`; false: time is up, even if they are there.
  bool wait(int fd, short events) const;

 private:
  std::chrono::steady_clock::time_point end_;
};

struct Dialed {
  UniqueFd fd;
  std::string peer;  // "192.0.2.1:7000", "[2001:db8::1]:7000"
};

// dial connects to options.host, trying one address after the other until `deadline`.
std::expected<Dialed, Failure> dial(const Options& options, const Deadline& deadline);

// answer listens, says where, and gives the first connection on which the other end says something:
// whoever connects and is silent for options.timeout, or goes, is none.
std::expected<Dialed, Failure> answer(const Options& options, const Report& report);

}  // namespace psp::cat
