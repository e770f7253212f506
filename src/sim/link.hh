// SPDX-License-Identifier: Apache-2.0
//
// Link: the wire between the hosts, and the enemy who has it: he sees all packets, keeps some, and
// can do with them what he likes. He knows all numbers of all connections, and no key.
//
// That is the threat of docs/security.md: an attacker on the path. What is said to be forged is
// what he has touched or made: the observer lets it do to connections in clear what it likes, and
// nothing to secured ones but to cost them packets.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "icmp.hh"
#include "packet.hh"
#include "plan.hh"
#include "random.hh"
#include "schedule.hh"

namespace psp::sim {

class Link {
 public:
  // Target is what the enemy knows of a connection's end, to forge what would fit there.
  struct Target {
    unsigned host;
    bool boxed;   // in its container
    Tuple tuple;  // of a segment to it
    std::uint32_t seq, ack_seq;
    std::uint32_t timestamp;  // that its peer has told last; 0: none
  };
  struct Calls {
    std::function<void(unsigned host, Octets packet, bool forged)> arrive;
    std::function<std::vector<Target>()> targets;
    // seen hears of all that arrives.
    std::function<void(unsigned to, const Octets& packet, bool forged)> seen;
  };

  Link(Schedule& schedule, Random random, const Plan& plan, Calls calls);

  // send takes a packet of host `from` (0 or 1); `forged`: root of a container has made it.
  void send(unsigned from, Octets packet, bool forged);
  // act is a deed of the enemy's own.
  void act();
  // calm: from now on nothing is lost, and the enemy has gone.
  void calm();

  std::uint64_t packets = 0, lost = 0, changed = 0, replayed = 0, injected = 0, forged = 0,
                too_big = 0;

 private:
  bool now(Feature feature, std::uint32_t part);
  void deliver(unsigned to, Octets packet, bool forged, Time delay);
  void keep(unsigned to, const Octets& packet);
  void replay();
  void inject();
  void forge();

  // link_icmp.cc
  void change_path();
  bool is_too_big(unsigned from, const Octets& packet);
  Notice notice(unsigned family);
  void forge_icmp();

  Schedule& schedule_;
  Random random_;
  const Plan& plan_;
  Calls calls_;
  bool calm_ = false;
  struct Kept {
    unsigned to = 0;
    Octets packet;
  };
  std::array<Kept, 256> kept_;
  // Path is the way from a host.
  struct Path {
    std::uint32_t mtu = 1500;
    bool silent = false, quotes_little = false;
  };
  std::array<Path, 2> paths_;
  std::array<Time, 2> last_{};  // arrival, so that packets keep their order
};

}  // namespace psp::sim
