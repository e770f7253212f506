// SPDX-License-Identifier: Apache-2.0
//
// The relay between two plain kernel sockets: splice() moves pages from socket to pipe to socket,
// and no octet passes through this process. A pipe is lent to a direction while octets are on their
// way in it, so that idle connections hold none.
//
// Threading: one thread for a pool and all relays that use it.
#pragma once

#include <optional>
#include <vector>

#include "relay.hh"

namespace psp::proxy {

struct Pipe {
  UniqueFd out, in;
};

class PipePool {
 public:
  // take is nullopt where the process or the system has no more descriptors.
  std::optional<Pipe> take();
  // give takes back an empty pipe.
  void give(Pipe pipe);

 private:
  std::vector<Pipe> free_;
};

class SpliceRelay final : public Relay {
 public:
  SpliceRelay(Socket& clear, Socket& peer, PipePool& pool)
      : outward_{clear, peer, pool}, inward_{peer, clear, pool} {}

  // prime puts octets of the peer in front of what its socket still holds. Before the first turn;
  // false: there is no room for them (kPrimeMax fit).
  bool prime(std::span<const std::uint8_t> octets) { return inward_.prime(octets); }
  static constexpr std::size_t kPrimeMax = 16384;

  State turn() override;
  bool empty() const override { return outward_.in_pipe == 0 && inward_.in_pipe == 0; }
  std::uint64_t to_peer() const override { return outward_.moved; }
  std::uint64_t from_peer() const override { return inward_.moved; }

 private:
  // Fault is a socket that broke; nullopt: none did.
  struct Fault {
    const Socket* socket;
    int error;
  };
  struct Direction {
    Socket& from;
    Socket& to;
    PipePool& pool;
    std::optional<Pipe> pipe = {};
    std::size_t in_pipe = 0;
    std::uint64_t moved = 0;
    bool from_ended = false, done = false;

    bool prime(std::span<const std::uint8_t> octets);
    // run leaves `more` true if it stopped though it could go on.
    std::optional<Fault> run(bool& more);
    std::optional<Fault> fill();
    std::optional<Fault> pour();
    std::optional<Fault> end_or_urgent();
  };

  Direction outward_, inward_;
};

}  // namespace psp::proxy
