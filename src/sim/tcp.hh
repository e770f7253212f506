// SPDX-License-Identifier: Apache-2.0
//
// Tcp: a full TCP socket of the modelled kernel, as small as it can be and still be right and hard
// to please. Its numbers are those of Linux (rcv_nxt, copied_seq, ...); what it sends again is cut
// anew each time, so that segments begin and end where no write did. See docs/simulation.md for
// what it leaves out.
//
// The octets that an application writes are not kept: they are a function of the stream and the
// place in it (content.hh), but for real ones. What is received is kept as it came.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>

#include "content.hh"
#include "random.hh"
#include "schedule.hh"
#include "sock.hh"

namespace psp::sim {

class Tcp;

// Network is what a socket needs of its host.
class Network {
 public:
  virtual ~Network() = default;
  virtual Schedule& schedule() = 0;
  virtual Random& random() = 0;
  virtual std::size_t mtu() const = 0;
  // send takes a segment of the socket to the network.
  virtual void send(const Segment& segment, std::shared_ptr<Sock> sk) = 0;
  // to_time_wait: only a TimeWait is left of the connection. unhash: nothing is.
  virtual void to_time_wait(Tcp& socket, unsigned substate) = 0;
  virtual void unhash(Tcp& socket) = 0;
  // has_ended: the application has let go and the connection is over: the socket is no more.
  virtual void has_ended(Tcp& socket) = 0;
};

class Tcp final : public Sock {
 public:
  enum : unsigned { kCloseWait = 8 };  // of the kernel's numbers, one that no program asks for

  Tcp(Network& network, std::uint64_t identity);

  // What the application does. The rest is the network's.
  void connect(const Tuple& to);
  void accepted(const Tuple& from, std::uint32_t iss, std::uint32_t irs, std::uint16_t window);
  std::size_t write(std::size_t size);  // less if there is no room; 0: not now, or never
  std::size_t write(std::span<const std::uint8_t> octets);  // real ones
  Octets read(std::size_t most);
  Octets peek(std::size_t most) const;
  void shutdown();
  void close();       // the last descriptor: FIN, or RST if something was not read
  void abort();       // close with SO_LINGER 0
  void disconnect();  // connect to AF_UNSPEC
  void destroy();     // as who destroys it by sock_diag does

  // receive takes a segment that is for it.
  void receive(const Segment& segment);

  bool is_over() const { return state == PSP_TCP_CLOSE; }
  bool closed() const { return closed_; }
  // at_end: all is read, and the peer has said that it was all.
  bool at_end() const { return fin_received_ && copied_seq == fin_seq_ && rcv_nxt == fin_seq_ + 1; }
  std::size_t readable() const { return received_.size(); }
  std::size_t unacknowledged() const { return write_seq - snd_una; }
  unsigned maximum_segment() const;
  const Network& network() const { return network_; }

  int error = 0;
  std::uint64_t stream = 0;          // of what is written here
  std::shared_ptr<Written> written;  // its real octets; null: none
  std::uint32_t iss = 0, irs = 0;
  std::uint32_t snd_una = 0, snd_nxt = 0, write_seq = 0;
  std::uint32_t rcv_nxt = 0, copied_seq = 0;
  std::size_t ip_options = 0;  // set on the socket
  bool reacts = true;          // to options: the MSS is lowered by them
  std::size_t tcp_options = 0;
  const shim_netdev* route = nullptr;
  std::uint32_t uid = 0;

 private:
  static constexpr std::uint32_t kReceiveBuffer = 60000, kSendBuffer = 200000;
  static constexpr unsigned kMostTries = 8;

  void fill(shim_sock& view) const override;
  std::uint32_t receive_window() const;
  bool synchronized() const;

  // tcp_output.cc
  void output();
  void resend();
  void transmit(std::uint32_t from, std::size_t size, bool fin);
  void acknowledge();
  void acknowledge_soon();
  void send_bare(std::uint32_t seq, bool rst, bool syn);
  void probe();
  void arm(Time delay);
  void on_timer();
  void on_delayed_ack();

  // tcp_input.cc
  void receive_syn_sent(const Segment& segment);
  void challenge(const Segment& segment);
  bool acceptable(const Segment& segment) const;
  void take_ack(const Segment& segment);
  void take_data(const Segment& segment);
  void take_fin(std::uint32_t seq);
  void our_fin_acknowledged();
  void enter_time_wait();
  void fail_with(int error);
  void over();

  Network& network_;
  std::deque<std::uint8_t> received_;
  std::map<std::uint32_t, Octets> queue_;  // out of order, by distance from irs
  std::uint32_t snd_wnd_ = 0, max_window_ = 0;
  std::size_t congestion_ = 0;  // window, in octets
  unsigned duplicates_ = 0, tries_ = 0;
  Time timeout_ = 0, challenged_ = 0;
  std::uint64_t timer_ = 0, ack_timer_ = 0;  // rounds: what is armed later makes earlier ones void
  bool armed_ = false, ack_armed_ = false, ack_owed_ = false;
  bool fin_wanted_ = false, fin_sent_ = false, closed_ = false;
  bool fin_received_ = false;
  std::uint32_t fin_seq_ = 0;  // the peer's
};

}  // namespace psp::sim
