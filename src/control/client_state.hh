// SPDX-License-Identifier: Apache-2.0
//
// ClientState: one client of the control socket, as Clients has it: who is at its other end, what
// it has asked for and has no answer to yet, and the answers that it has not taken yet.
//
// Threading: the control thread only.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <sys/types.h>
#include <vector>

#include "base/loop.hh"
#include "base/unique_fd.hh"
#include "netlink/server.hh"

#include "fair_share.hh"

namespace psp::control {

struct ClientState {
  UniqueFd fd{};
  uid_t uid = 0;        // whose account
  bool judged = false;  // caller.net_admin was found out at accept
  netlink::Caller caller{};
  std::vector<std::uint8_t> request{};  // what is not answered yet
  std::vector<UniqueFd> fds{};          // that came with it
  std::deque<netlink::Datagram> answers{};
  std::size_t sent = 0;
  bool waiting = false;         // answers wait
  bool lost_some = false;       // notifications; it has been told, or the sign is among `answers`
  std::size_t send_buffer = 0;  // as the kernel counts
  std::size_t held = 0;         // of the account's octets
  Loop::Source readable{};
  Loop::Clock::time_point due{};  // while answers wait
  std::chrono::milliseconds pause{};
  FairShare::Turn turn{};  // its next
  std::list<ClientState>::iterator self{};

  // idle: it has all that it asked for.
  bool idle() const { return answers.empty() && request.empty() && !caller.dump; }
};

}  // namespace psp::control
