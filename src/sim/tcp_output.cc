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

// current_segment is the MSS of a segment with the SACK blocks that are due.
unsigned Tcp::current_segment() const {
  const std::size_t more = size_of(options_now()) - (agreed.timestamps ? 12 : 0);
  return maximum_segment() - static_cast<unsigned>(more);
}

// select_window is what is offered now: never less than what was (RFC 7323, 2.4), but 0 rather than
// a window that is not worth a segment.
std::uint16_t Tcp::select_window() {
  const std::uint32_t before = window_to_come(), unit = 1u << agreed.receive_scale;
  std::uint32_t window = free_space();
  if (window < std::min(maximum_segment(), receive_buffer_ / 2)) window = 0;
  window = std::max(window, before);
  window = std::min((window + unit - 1) / unit * unit, 65535u << agreed.receive_scale);
  rcv_wnd_ = window;
  rcv_wup_ = rcv_nxt;
  return static_cast<std::uint16_t>(window >> agreed.receive_scale);
}

// bare is a segment of the connection without data.
Segment Tcp::bare(std::uint32_t seq) {
  Segment segment{.tuple = tuple, .seq = seq, .ack_seq = rcv_nxt};
  segment.ack = true;
  segment.window = select_window();
  segment.options = options_now();
  segment.reserved = tuple.family == 4 && ip_options != 0;
  duplicate_.reset();
  return segment;
}

void Tcp::transmit(std::uint32_t from, std::size_t size, bool fin, bool push) {
  // Packets on an IPv4 socket have its options, whether the MSS has been lowered for them or not.
  const bool unforeseen = tuple.family == 4 && ip_options != 0 && !reacts;
  const unsigned room = current_segment() - (unforeseen ? 40 : 0);
  Segment segment = bare(from);
  segment.fin = fin;
  // What is sent again is pushed where it was before.
  const std::uint32_t end = from + static_cast<std::uint32_t>(size) - iss;
  segment.psh = push || (size != 0 && (iss + end == write_seq || pushed.contains(end)));
  // Of those that are joined in one, only the last keeps its PSH.
  if (size != 0) pushed.erase(pushed.upper_bound(from - iss), pushed.lower_bound(end));
  if (segment.psh) pushed.insert(end);
  segment.payload.resize(size);
  write_stream(stream, written.get(), from - iss - 1, segment.payload);
  if (size > room) segment.gso_size = static_cast<std::uint16_t>(room);
  ack_owed_ = false;
  network_.send(segment, shared_from_this());
}

// ready is how much of `size` octets goes now. A segment that is not full waits for a window that
// has room for all of it and, by Nagle and Minshall, for the ACK of an earlier one that was not
// full.
std::size_t Tcp::ready(std::size_t size, std::size_t waiting, bool fin) const {
  const unsigned mss = current_segment();
  if (size < waiting && size < mss) return 0;
  const bool waits = nagle && !fin && psp_before(snd_una, small_end_);
  return waits ? size - size % mss : size;
}

void Tcp::output() {
  if (!synchronized()) return;
  learn_mtu();
  const std::uint32_t window =
      static_cast<std::uint32_t>(std::min<std::size_t>(snd_wnd_, congestion_));
  const bool any = network_.draws();
  while (synchronized()) {
    const std::uint32_t flying = snd_nxt - snd_una;
    const std::uint32_t waiting = write_seq - std::min(snd_nxt - iss, write_seq - iss) - iss;
    const std::size_t room = window > flying ? window - flying : 0;
    const std::uint64_t segments = network_.random().between(1, 40);
    const unsigned mss = current_segment();
    const std::size_t most =
        std::min<std::size_t>({waiting, room, kMostInOne, mss * (any ? segments : 40)});
    const bool fin = fin_wanted_ && !fin_sent_ && most == waiting;
    const std::size_t size = ready(most, waiting, fin);
    if (size == 0 && !fin) break;
    const std::uint32_t from = snd_nxt;
    // Numbers first: programs look at them while the segment passes. Linux moves snd_nxt after.
    if (fin) fin_sent_ = true;
    transmit(from, size, fin);
    snd_nxt = from + static_cast<std::uint32_t>(size) + fin;
    if (size % mss != 0) small_end_ = snd_nxt;
    if (!armed_) arm(kFirstTimeout);
  }
  const bool more = write_seq + fin_wanted_ != snd_nxt || fin_wanted_ != fin_sent_;
  if (snd_una == snd_nxt && more && !armed_) arm(kFirstTimeout);
}

// resend sends from there on again, up to any place before what the peer has already.
void Tcp::resend(std::uint32_t from) {
  learn_mtu();
  const std::uint32_t sent = std::min(write_seq - iss, snd_nxt - iss);
  const std::uint32_t begin = from - iss;
  const auto next = sacked_.upper_bound(begin);
  const std::uint32_t end = next == sacked_.end() ? sent : std::min(sent, next->first);
  const std::uint32_t data = begin < end ? end - begin : 0;
  const unsigned mss = current_segment();
  const std::size_t most = std::min<std::size_t>(data, snd_wnd_ == 0 ? mss : snd_wnd_);
  std::size_t size = 0;
  if (most != 0) {
    const std::uint64_t some = network_.random().between(1, std::min(most, kMostInOne));
    const std::uint64_t one = std::min<std::size_t>(most, mss);
    size = network_.random().chance(500'000) || !network_.draws() ? one : some;
  }
  const bool fin = fin_sent_ && begin + size == sent;
  again_ = from + static_cast<std::uint32_t>(size) + fin;
  transmit(from, size, fin);
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
  Segment segment = bare(seq);
  segment.rst = rst;
  if (syn) {
    segment.syn = true;
    segment.ack = false;
    segment.ack_seq = 0;
    segment.window = kFirstWindow;
    segment.options = offered_;
    segment.options.value = options_now().value;
  }
  network_.send(segment, shared_from_this());
}

// probe fills a window that is too small for a whole segment, or asks for one by a segment that the
// peer has had.
void Tcp::probe() {
  const std::uint32_t flying = snd_nxt - snd_una;
  const std::uint32_t left = snd_wnd_ > flying ? snd_wnd_ - flying : 0;
  const auto size = std::min<std::uint32_t>({left, write_seq - snd_nxt, current_segment()});
  if (left == 0 || fin_sent_ || write_seq == snd_nxt) return send_bare(snd_una - 1, false, false);
  transmit(snd_nxt, size, false, true);
  snd_nxt = small_end_ = snd_nxt + size;
}

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
  if (state == PSP_TCP_FIN_WAIT2 && closed_) {
    send_bare(snd_nxt, true, false);
    return over();
  }
  if (++tries_ > kMostTries) return fail_with(ETIMEDOUT);
  const Time next = std::min(2 * timeout_, kLongestTimeout);
  if (state == PSP_TCP_SYN_SENT) {
    send_bare(iss, false, true);
  } else if (snd_una != snd_nxt) {
    congestion_ = std::max<std::size_t>(congestion_ / 2, 2u * maximum_segment());
    // What the peer has said that it has it may have thrown away (RFC 2018).
    sacked_.clear();
    recover(true);
  } else if (write_seq != snd_nxt || fin_wanted_ != fin_sent_) {
    probe();
    output();
  } else {
    return;
  }
  if (state != PSP_TCP_CLOSE) arm(next);
}

}  // namespace psp::sim
