// SPDX-License-Identifier: Apache-2.0
//
// AppSocket: one modelled socket as real library code has it: by a descriptor, for the system calls
// of app_calls.h, and as a BIO, for OpenSSL. While somebody is inside, OpenSSL's random numbers are
// that application's as well, so that the same seed is the same handshake to the octet.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <openssl/bio.h>
#include <sys/socket.h>
#include <utility>

#include "kernel.hh"

namespace psp::sim {

class AppSocket {
 public:
  static constexpr int kNumber = 1 << 20;  // its descriptor; no real one

  AppSocket(Kernel& kernel, std::shared_ptr<Tcp> socket, Random random);

  // bio reads and writes here, and says that it is a socket's. OpenSSL's to free.
  BIO* bio();

  // Inside: calls are those of this application. One at a time.
  class Inside {
   public:
    explicit Inside(AppSocket& socket);
    ~Inside();
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;
  };

  // Calls, with their results: 0 or more, or a negative errno.
  ssize_t send(std::span<const std::uint8_t> octets);
  ssize_t receive(std::span<std::uint8_t> out, int flags);
  int option(int level, int name) const;
  int set_option(int level, int name, int value);
  Tcp& socket() { return *socket_; }
  Random& random() { return random_; }

  std::function<void(std::size_t size)> on_sent;
  std::function<void(std::uint32_t seq, const Octets& octets)> on_read;

 private:
  Kernel& kernel_;
  std::shared_ptr<Tcp> socket_;
  Random random_;
  std::map<std::pair<int, int>, int> options_;
};

}  // namespace psp::sim
