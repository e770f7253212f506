// SPDX-License-Identifier: Apache-2.0
//
// Tcp: a full TCP socket of the modelled kernel, as small as it can be and still be right and hard
// to please. Its numbers are those of Linux (rcv_nxt, copied_seq, ...); what it sends again is cut
// anew each time, so that segments begin and end where no write did. See docs/simulation.md for
// what it leaves out.
//
// The octets that an application writes are not kept, but for real ones: they are a function of the
// stream and the place in it (content.hh). What is received is kept as it came.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>

#include "content.hh"
#include "random.hh"
#include "schedule.hh"
#include "sock.hh"

namespace psp::sim {

class Tcp;

// Begin is what a listener's side knows when a connection is there.
struct Begin {
  std::uint32_t iss = 0, irs = 0;
  Options ours{}, theirs{};  // of the two SYNs
  std::uint16_t window = 0;
  std::uint32_t timestamp_base = 0, recent = 0;
};

// Network is what a socket needs of its host.
class Network {
 public:
  virtual ~Network() = default;
  virtual Schedule& schedule() = 0;
  virtual Random& random() = 0;
  // mtu is that of the path to the tuple's remote end, as far as it is known.
  virtual std::size_t mtu(const Tuple& tuple) const = 0;
  // timestamp_base is what the clock of a connection's timestamps begins at.
  virtual std::uint32_t timestamp_base() = 0;
  // send takes a segment of the socket to the network.
  virtual void send(const Segment& segment, std::shared_ptr<Sock> sk) = 0;
  // to_time_wait: only a TimeWait is left of the connection. unhash: nothing is.
  virtual void to_time_wait(Tcp& socket, unsigned substate) = 0;
  virtual void unhash(Tcp& socket) = 0;
  // has_ended: the application has let go and the connection is over: the socket is no more.
  virtual void has_ended(Tcp& socket) = 0;
  // refuse answers a segment to a socket that has just been reset by it.
  virtual void refuse(const Segment& segment) = 0;
  // pause is the least time between two answers to what does not fit: tcp_invalid_ratelimit.
  virtual Time pause() const { return 500 * kMillisecond; }
  // draws: what TCP is free to choose is drawn, as where segments end and what a SYN offers; else
  // it is as Linux has it when nothing is scarce.
  virtual bool draws() const { return true; }
};

class Tcp final : public Sock {
 public:
  enum : unsigned { kCloseWait = 8 };  // of the kernel's numbers, one that no program asks for

  Tcp(Network& network, std::uint64_t identity);

  // What the application does. The rest is the network's.
  void connect(const Tuple& to);
  void accepted(const Tuple& from, const Begin& begin);
  std::size_t write(std::size_t size);  // less if there is no room; 0: not now, or never
  // write these octets, whatever the stream would have there.
  std::size_t write(std::span<const std::uint8_t> octets);
  Octets read(std::size_t most);
  Octets peek(std::size_t most) const;
  void shutdown();
  void close();       // the last descriptor: FIN, or RST if something was not read
  void abort();       // close with SO_LINGER 0
  void disconnect();  // connect to AF_UNSPEC
  void destroy();     // as who destroys it by sock_diag does

  // receive takes a segment that is for it.
  void receive(const Segment& segment);
  // path_shrank: a router has told of a smaller MTU. unreachable: of something else.
  void path_shrank();
  void unreachable(int number);

  bool is_over() const { return state == PSP_TCP_CLOSE; }
  std::size_t readable() const { return received_.size(); }
  // at_end: all is read, and the peer has said that it was all.
  bool at_end() const { return fin_received_ && copied_seq == fin_seq_ && rcv_nxt == fin_seq_ + 1; }
  unsigned maximum_segment() const;
  std::uint32_t window_to_come() const;  // of what was offered
  const Network& network() const { return network_; }

  int error = 0;
  std::uint64_t stream = 0;          // of what is written here
  std::shared_ptr<Written> written;  // its real octets; null: none
  std::uint32_t iss = 0, irs = 0;
  std::uint32_t snd_una = 0, snd_nxt = 0, write_seq = 0;
  std::uint32_t rcv_nxt = 0, copied_seq = 0;
  std::set<std::uint32_t> pushed;  // where segments with PSH ended, from iss; not acknowledged
  std::size_t ip_options = 0;      // set on the socket
  bool reacts = true;              // to options: the MSS is lowered by them
  bool deaf = false;               // SHUT_RD
  bool nagle = false;              // small segments wait for the ACK of an earlier one
  Agreed agreed;
  std::uint32_t timestamp_base = 0;
  std::uint32_t recent = 0;  // the peer's timestamp; 0 at `recent_at`: there is none
  Time recent_at = 0;
  const shim_netdev* route = nullptr;
  std::uint32_t uid = 0;

 private:
  static constexpr std::uint32_t kSendBuffer = 200000;
  static constexpr unsigned kMostTries = 8;

  void fill(shim_sock& view) const override;
  bool synchronized() const;
  std::size_t room() const;
  std::uint32_t free_space() const;
  unsigned current_segment() const;
  void begin(const Options& ours, const Options& theirs);
  void learn_mtu();

  // tcp_output.cc
  void output();
  void resend(std::uint32_t from);
  Segment bare(std::uint32_t seq);
  std::uint16_t select_window();
  void transmit(std::uint32_t from, std::size_t size, bool fin, bool push = false);
  std::size_t ready(std::size_t size, std::size_t waiting, bool fin) const;
  void acknowledge();
  void acknowledge_soon();
  void send_bare(std::uint32_t seq, bool rst, bool syn);
  void probe();
  void arm(Time delay);
  void on_timer();
  void on_delayed_ack();

  // tcp_sack.cc
  Options options_now() const;
  void note_duplicate(std::uint32_t from, std::uint32_t to);
  void note_sack(const Segment& segment);
  void take_sack(const Segment& segment, bool moved);
  std::uint32_t highest_sacked() const;
  bool is_lost() const;
  void recover(bool all);
  void resend_next();

  // tcp_input.cc
  bool is_old(const Segment& segment) const;
  bool resets(const Segment& segment) const;
  void take_window(const Segment& segment);
  void receive_syn_sent(const Segment& segment);
  void challenge(const Segment& segment);
  bool acceptable(const Segment& segment) const;
  void take_ack(const Segment& segment);
  void take_data(const Segment& segment);
  void take_fin(std::uint32_t seq);
  bool runs_over_end(const Segment& segment) const;
  void our_fin_acknowledged(const Segment& segment);
  void enter_time_wait();
  void fail_with(int error);
  void over();

  Network& network_;
  std::deque<std::uint8_t> received_;
  std::map<std::uint32_t, Octets> queue_;  // out of order, by distance from irs
  std::uint32_t receive_buffer_ = 60000;
  std::uint32_t rcv_wnd_ = 0, rcv_wup_ = 0;  // what was offered, and at which rcv_nxt
  std::uint32_t snd_wnd_ = 0, snd_wl1_ = 0;  // the peer's window, and which segment told it
  std::size_t path_mtu_ = 1500;              // when it was looked at
  Options offered_;
  std::optional<SackBlock> duplicate_;             // to be reported (RFC 2883)
  std::uint32_t newest_ = 0;                       // what came last out of order
  std::map<std::uint32_t, std::uint32_t> sacked_;  // the peer has it; distances from iss
  // While lost segments are sent again: from where on, up to where, until what is acknowledged.
  bool recovers_ = false;
  std::uint32_t again_ = 0, lost_to_ = 0, recovered_ = 0;
  std::size_t congestion_ = 0;   // window, in octets
  std::uint32_t small_end_ = 0;  // behind the last segment that was sent and was not full
  unsigned duplicates_ = 0, tries_ = 0;
  Time timeout_ = 0, challenged_ = 0;
  std::uint64_t timer_ = 0, ack_timer_ = 0;  // rounds: what is armed later makes earlier ones void
  bool armed_ = false, ack_armed_ = false, ack_owed_ = false;
  bool fin_wanted_ = false, fin_sent_ = false, closed_ = false;
  bool fin_received_ = false;
  std::uint32_t fin_seq_ = 0;  // the peer's
};

}  // namespace psp::sim
