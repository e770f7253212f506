// SPDX-License-Identifier: Apache-2.0
//
// StatsSocket: a unix socket that gives whoever connects one line of JSON. Any user of the host may
// ask if the file's directory lets them; there are no secrets in it.
//
// Threading: one thread.
#pragma once

#include <expected>
#include <string>

#include "base/socket_file.hh"

namespace psp::proxy {

class StatsSocket {
 public:
  // open takes over a socket that nobody listens at, and removes nothing else. The error is a
  // sentence.
  static std::expected<StatsSocket, std::string> open(const std::string& address);

  int fd() const { return listener_.fd(); }
  // answer accepts one connection, writes `line` to it and closes it. False: there is no descriptor
  // or memory to do it with.
  bool answer(const std::string& line);

 private:
  explicit StatsSocket(SocketFile listener) : listener_(std::move(listener)) {}
  SocketFile listener_;
};

}  // namespace psp::proxy
