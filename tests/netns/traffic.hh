// SPDX-License-Identifier: Apache-2.0
//
// Traffic: a connection under load, both ways. It writes and reads as fast as the sockets take it
// and does not mind errors, so it can go on while pspd is killed under it, and ends without
// waiting.
//
// The content is random and the same again and again, so that a piece of it is found wherever it
// appears (holds_part).
//
// Threading: one thread of its own; the sockets are its while it lives.
#pragma once

#include <atomic>
#include <cstdint>
#include <fcntl.h>
#include <sys/socket.h>
#include <thread>

#include "lab.hh"

namespace psp::lab {

// Traffic keeps both directions of a connection busy. It ends when the sockets do.
class Traffic {
 public:
  explicit Traffic(const Connection& connection)
      : content_(random_octets(1 << 16)), fds_{connection.a.get(), connection.b.get()} {
    for (const int fd : fds_) ::fcntl(fd, F_SETFL, O_NONBLOCK);
    thread_ = std::thread([this] { run(); });
  }
  ~Traffic() {
    stop_ = true;
    thread_.join();
  }
  std::uint64_t received() const { return received_; }
  const Octets& content() const { return content_; }

 private:
  void run() {
    Octets sink(1 << 16);
    while (!stop_)
      for (const int fd : fds_) {
        (void)::send(fd, content_.data(), content_.size(), MSG_NOSIGNAL);
        const ssize_t n = ::recv(fd, sink.data(), sink.size(), 0);
        if (n > 0) received_ += static_cast<std::uint64_t>(n);
      }
  }
  const Octets content_;
  const int fds_[2];
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> received_{0};
  std::thread thread_;
};

}  // namespace psp::lab
