// SPDX-License-Identifier: Apache-2.0
//
// Sending: new data as far as the windows go, in packets of any size up to 64 KB; what was lost,
// cut anew; ACKs, at once or later; the one timer for all that may have to be sent again.
//
// Sizes are drawn: segments that begin and end where no write did are what the clear boundary and
// the cutting in TxPath must stand. The content is written at each transmission (content.hh), so
// what goes out again is the same whatever its cut. The congestion window is there to vary how much
// is under way, not to be fair.
#include <algorithm>
#include <cerrno>

#include "content.hh"
#include "tcp.hh"

namespace psp::sim {
namespace {

constexpr Time kFirstTimeout = 200 * kMillisecond, kLongestTimeout = 4 * kSecond;
constexpr Time kDelayedAck = 40 * kMillisecond;
constexpr std::size_t kMostInOne = 60000;

}  // namespace

void Tcp::transmit(std::uint32_t from, std::size_t size, bool fin) {
  Segment segment{.tuple = tuple, .seq = from, .ack_seq = rcv_nxt};
  segment.ack = true;
  segment.fin = fin;
  segment.psh = fin || from + size == write_seq;
  segment.window = static_cast<std::uint16_t>(receive_window());
  segment.options = tcp_options;
  segment.reserved = tuple.family == 4 && ip_options != 0;
  segment.payload.resize(size);
  write_stream(stream, written.get(), from - iss - 1, segment.payload);
  // Packets on an IPv4 socket have its options, whether the MSS has been lowered for them or not.
  const unsigned room = maximum_segment() - (segment.reserved && !reacts ? 40 : 0);
  if (size > room) segment.gso_size = static_cast<std::uint16_t>(room);
  ack_owed_ = false;
  network_.send(segment, shared_from_this());
}

void Tcp::output() {
  if (!synchronized()) return;
  const std::uint32_t window =
      static_cast<std::uint32_t>(std::min<std::size_t>(snd_wnd_, congestion_));
  const unsigned mss = maximum_segment();
  while (synchronized()) {
    const std::uint32_t flying = snd_nxt - snd_una;
    const std::uint32_t waiting = write_seq - std::min(snd_nxt - iss, write_seq - iss) - iss;
    const std::size_t room = window > flying ? window - flying : 0;
    const std::size_t size =
        std::min<std::size_t>({waiting, room, kMostInOne, mss * network_.random().between(1, 40)});
    const bool fin = fin_wanted_ && !fin_sent_ && size == waiting;
    if (size == 0 && !fin) break;
    const std::uint32_t from = snd_nxt;
    // Numbers first: programs look at them while the segment passes. Linux moves snd_nxt after.
    if (fin) fin_sent_ = true;
    transmit(from, size, fin);
    snd_nxt = from + static_cast<std::uint32_t>(size) + fin;
    if (!armed_) arm(kFirstTimeout);
  }
  const bool more = write_seq + fin_wanted_ != snd_nxt || fin_wanted_ != fin_sent_;
  if (snd_una == snd_nxt && more && !armed_) arm(kFirstTimeout);
}

// resend sends from the first octet that is not acknowledged on, up to any place.
void Tcp::resend() {
  const std::uint32_t data = std::min(write_seq - iss, snd_nxt - iss) - (snd_una - iss);
  const unsigned mss = maximum_segment();
  const std::size_t most = std::min<std::size_t>(data, snd_wnd_ == 0 ? mss : snd_wnd_);
  std::size_t size = 0;
  if (most != 0) {
    const std::uint64_t some = network_.random().between(1, most);
    const std::uint64_t one = std::min<std::size_t>(most, mss);
    size = network_.random().chance(500'000) ? one : some;
  }
  const bool fin = fin_sent_ && size == data;
  transmit(snd_una, size, fin);
}

void Tcp::acknowledge() {
  ack_owed_ = false;
  send_bare(snd_nxt, false, false);
}

void Tcp::acknowledge_soon() {
  if (ack_owed_ || network_.random().chance(300'000)) return acknowledge();
  ack_owed_ = true;
  if (ack_armed_) return;
  ack_armed_ = true;
  const std::weak_ptr<Sock> self = weak_from_this();
  network_.schedule().after(kDelayedAck, [this, self, round = ++ack_timer_] {
    const auto alive = self.lock();
    if (alive && round == ack_timer_) on_delayed_ack();
  });
}

void Tcp::on_delayed_ack() {
  ack_armed_ = false;
  if (ack_owed_ && synchronized()) acknowledge();
}

// send_bare sends a segment without data.
void Tcp::send_bare(std::uint32_t seq, bool rst, bool syn) {
  Segment segment{.tuple = tuple, .seq = seq, .ack_seq = syn ? 0 : rcv_nxt};
  segment.ack = !syn;
  segment.rst = rst;
  segment.syn = syn;
  segment.window = static_cast<std::uint16_t>(receive_window());
  segment.options = tcp_options;
  segment.reserved = tuple.family == 4 && ip_options != 0;
  network_.send(segment, shared_from_this());
}

// probe asks for the peer's window by a segment that it has had.
void Tcp::probe() { send_bare(snd_una - 1, false, false); }

void Tcp::arm(Time delay) {
  armed_ = true;
  timeout_ = delay;
  const std::weak_ptr<Sock> self = weak_from_this();
  network_.schedule().after(delay, [this, self, round = ++timer_] {
    const auto alive = self.lock();
    if (alive && round == timer_) on_timer();
  });
}

void Tcp::on_timer() {
  armed_ = false;
  const auto keep = shared_from_this();
  if (state == PSP_TCP_CLOSE) return;
  if (++tries_ > kMostTries) return fail_with(ETIMEDOUT);
  const Time next = std::min(2 * timeout_, kLongestTimeout);
  if (state == PSP_TCP_SYN_SENT) {
    send_bare(iss, false, true);
  } else if (snd_una != snd_nxt) {
    congestion_ = std::max<std::size_t>(congestion_ / 2, 2u * maximum_segment());
    duplicates_ = 0;
    resend();
  } else if (write_seq != snd_nxt || fin_wanted_ != fin_sent_) {
    probe();
    output();
  } else {
    return;
  }
  if (state != PSP_TCP_CLOSE) arm(next);
}

}  // namespace psp::sim
