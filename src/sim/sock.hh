// SPDX-License-Identifier: Apache-2.0
//
// Sock: whatever a packet can belong to in the modelled kernel: a full socket, a connection that is
// asked for, one in TIME_WAIT, the control socket that RSTs of nobody are sent by.
//
// Programs tell them apart as they do in Linux, by `full` and the state: members that a kind does
// not have read as 0, and what is stored with a socket is stored with full ones only. Who may be
// called while a packet passes holds a shared pointer: a socket can end in the middle of its own
// call.
#pragma once

#include <cstdint>
#include <memory>
#include <netinet/in.h>
#include <sys/socket.h>

#include "bpf/native.h"
#include "device/socket_state.h"

#include "packet.hh"

namespace psp::sim {

class Sock : public std::enable_shared_from_this<Sock> {
 public:
  Sock(std::uint64_t identity, bool is_full) : id(identity), full(is_full) {}
  virtual ~Sock() = default;
  Sock(const Sock&) = delete;
  Sock& operator=(const Sock&) = delete;

  // refresh is the socket as programs see it now.
  shim_sock& refresh();

  const std::uint64_t id;  // of what hangs on it; its cookie, once somebody has asked
  const bool full;
  bool asked = false;
  int type = SOCK_STREAM, protocol = IPPROTO_TCP;  // as programs and getsockopt are told
  Tuple tuple;
  unsigned state = PSP_TCP_CLOSE;
  std::uint64_t netns = 0;

 protected:
  // fill adds what a kind of socket has.
  virtual void fill(shim_sock& /*view*/) const {}

 private:
  shim_sock view_{};
};

// Request is a connection between its SYN and the ACK of the answer.
class Request final : public Sock {
 public:
  explicit Request(std::uint64_t identity) : Sock(identity, false) {}
  std::uint32_t iss = 0, irs = 0;
  Options ours{}, theirs{};  // of the SYNs
  std::uint32_t timestamp_base = 0, recent = 0;
  unsigned tries = 0;
  std::uint64_t answered = 0;  // when, last, to what does not fit
};

// TimeWait is what is left of a connection whose full socket has gone.
class TimeWait final : public Sock {
 public:
  explicit TimeWait(std::uint64_t identity) : Sock(identity, false) {}
  std::uint32_t rcv_nxt = 0, snd_nxt = 0;
  std::uint32_t window = 0;
  std::uint8_t scale = 0;
  std::uint8_t substate = PSP_TCP_TIME_WAIT;
  bool timestamps = false;
  std::uint32_t timestamp_base = 0, recent = 0;  // the peer's, had at recent_at
  std::uint64_t recent_at = 0;
  std::uint64_t answered = 0;  // when, last

 private:
  void fill(shim_sock& view) const override {
    view.kernel.tw_substate = substate;
    view.kernel.tw_rcv_nxt = rcv_nxt;
    view.kernel.tw_ts_recent_stamp =
        timestamps ? static_cast<std::uint32_t>(recent_at / 1'000'000'000) : 0;
  }
};

}  // namespace psp::sim
