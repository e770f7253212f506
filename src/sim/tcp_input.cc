// SPDX-License-Identifier: Apache-2.0
//
// Receiving, in the order of Linux: is it in the window, RST, SYN, ACK, data, FIN. Data is taken as
// far as it is new; what came before stands.
//
// The order is what an attacker plays with: a RST counts only at rcv_nxt (RFC 5961), and the first
// copy of an octet counts, so a forged one that comes first is read. The observer knows that of
// connections in clear. Answers to what does not fit are rationed, or two ends that disagree would
// go on for ever.
#include <algorithm>
#include <cerrno>

#include "tcp.hh"

namespace psp::sim {
namespace {

constexpr std::uint32_t kLateAck = 200;  // milliseconds

}  // namespace

void Tcp::receive(const Segment& segment) {
  const auto keep = shared_from_this();
  if (state == PSP_TCP_CLOSE) return;
  if (state == PSP_TCP_SYN_SENT) return receive_syn_sent(segment);
  if (is_old(segment) && !segment.rst) return challenge(segment);
  if (!acceptable(segment)) {
    if (!segment.rst) challenge(segment);
    return;
  }
  if (segment.rst) {
    if (!resets(segment)) return challenge(segment);
    return fail_with(state == kCloseWait ? EPIPE : ECONNRESET);
  }
  if (segment.syn) return challenge(segment);
  if (!segment.ack) return;
  if (psp_before(snd_nxt, segment.ack_seq)) return challenge(segment);
  if (agreed.timestamps && segment.options.timestamps && !psp_before(rcv_wup_, segment.seq)) {
    recent = segment.options.value;
    recent_at = network_.schedule().now();
  }
  take_ack(segment);
  if (state == PSP_TCP_CLOSE) return;
  if (runs_over_end(segment)) {
    fail_with(state == kCloseWait ? EPIPE : ECONNRESET);
    return network_.refuse(segment);
  }
  take_data(segment);
}

// runs_over_end: nobody reads any more, and there is more. An RST says so that is no socket's, as
// to a segment of no connection. What begins behind the peer's FIN is not heard, without an answer.
bool Tcp::runs_over_end(const Segment& segment) const {
  const bool at_peers_fin = fin_received_ && rcv_nxt == fin_seq_ + 1;
  if (at_peers_fin && !psp_before(segment.seq, rcv_nxt)) return false;
  const bool nobody_reads = closed_ || at_peers_fin || (deaf && state != PSP_TCP_ESTABLISHED);
  return nobody_reads && !segment.payload.empty() &&
         psp_before(rcv_nxt, segment.end() - segment.fin);
}

// is_old: its timestamp says that it comes from before what has been had (PAWS). An ACK that only
// comes late is none: Linux lets it pass if it is less than a timeout behind.
bool Tcp::is_old(const Segment& segment) const {
  if (!agreed.timestamps || !segment.options.timestamps) return false;
  const std::uint32_t behind = recent - segment.options.value;
  if (!psp_before(segment.options.value, recent) || behind <= 1) return false;
  const bool late_ack = segment.ack && segment.seq == rcv_nxt && segment.end() == segment.seq &&
                        segment.ack_seq == snd_una &&
                        std::uint32_t{segment.window} << agreed.send_scale == snd_wnd_;
  return !late_ack || behind > kLateAck;
}

// resets: RFC 5961, and the end of what SACK has told, where the peer may think that we are.
bool Tcp::resets(const Segment& segment) const {
  if (segment.seq == rcv_nxt) return true;
  return agreed.sack && !queue_.empty() &&
         segment.seq == irs + queue_.rbegin()->first +
                            static_cast<std::uint32_t>(queue_.rbegin()->second.size());
}

// challenge answers what does not fit. Seldom, where two that do not agree would go on for ever.
void Tcp::challenge(const Segment& segment) {
  const Time now = network_.schedule().now();
  if (segment.payload.empty() || segment.syn) {
    if (now - challenged_ < network_.pause()) return;
    challenged_ = now;
  }
  if (!segment.payload.empty() && psp_before(segment.seq, rcv_nxt))
    note_duplicate(segment.seq, psp_before(rcv_nxt, segment.end()) ? rcv_nxt : segment.end());
  acknowledge();
}

void Tcp::receive_syn_sent(const Segment& segment) {
  if (segment.ack && segment.ack_seq != snd_nxt) return;
  if (segment.rst) {
    if (segment.ack) fail_with(ECONNREFUSED);
    return;
  }
  if (!segment.syn || !segment.ack) return;
  irs = segment.seq;
  snd_una = segment.ack_seq;
  snd_wnd_ = segment.window;
  recent = segment.options.value;
  begin(offered_, segment.options);
  tries_ = 0;
  ++timer_;
  armed_ = false;
  acknowledge();
}

bool Tcp::acceptable(const Segment& segment) const {
  const std::uint32_t end = segment.end();
  return !psp_before(end, rcv_wup_) && !psp_before(rcv_nxt + window_to_come(), segment.seq);
}

// take_window: what an older segment says of the window does not count.
void Tcp::take_window(const Segment& segment) {
  const std::uint32_t window = std::uint32_t{segment.window} << agreed.send_scale;
  const bool newer = psp_before(snd_una, segment.ack_seq) || psp_before(snd_wl1_, segment.seq) ||
                     (segment.seq == snd_wl1_ && (window > snd_wnd_ || window == 0));
  if (!newer) return;
  snd_wl1_ = segment.seq;
  snd_wnd_ = window;
}

void Tcp::take_ack(const Segment& segment) {
  if (psp_before(segment.ack_seq, snd_una)) return;
  const std::uint32_t window = snd_wnd_;
  take_window(segment);
  if (segment.ack_seq == snd_una) {
    const bool duplicate =
        segment.payload.empty() && !segment.fin && snd_una != snd_nxt && window == snd_wnd_;
    if (snd_una == snd_nxt) tries_ = 0;  // it answers our probes
    if (duplicate) ++duplicates_;
    take_sack(segment, false);
    if (!duplicate) output();
    return;
  }
  const std::uint32_t acknowledged = segment.ack_seq - snd_una;
  snd_una = segment.ack_seq;
  pushed.erase(pushed.begin(), pushed.upper_bound(snd_una - iss));
  duplicates_ = tries_ = 0;
  congestion_ = std::min<std::size_t>(congestion_ + acknowledged, 400000);
  ++timer_;
  armed_ = false;
  if (snd_una != snd_nxt) arm(200 * kMillisecond);
  if (fin_sent_ && snd_una == write_seq + 1) our_fin_acknowledged(segment);
  if (state == PSP_TCP_CLOSE) return;
  take_sack(segment, true);
  output();
}

// path_shrank: what is under way is too big. It goes out again at once, cut anew.
void Tcp::path_shrank() {
  if (!synchronized() || network_.mtu(tuple) >= path_mtu_) return;
  learn_mtu();
  if (snd_una != snd_nxt) recover(true);
}

// unreachable: hard for who is not connected yet; others go on, and say it when they give up.
void Tcp::unreachable(int number) {
  if (state == PSP_TCP_SYN_SENT) return fail_with(number);
}

// our_fin_acknowledged: an orphan is a TIME_WAIT from then on, but not before the peer's FIN of the
// same segment has been taken. Should that not fit, it waits for as long as a TIME_WAIT would.
void Tcp::our_fin_acknowledged(const Segment& segment) {
  switch (state) {
    case PSP_TCP_FIN_WAIT1:
      state = PSP_TCP_FIN_WAIT2;
      if (!closed_) return;
      if (segment.fin) return arm(60 * kSecond);
      network_.to_time_wait(*this, PSP_TCP_FIN_WAIT2);
      return over();
    case PSP_TCP_CLOSING:
      return enter_time_wait();
    case PSP_TCP_LAST_ACK:
      return over();
    default:
      return;
  }
}

// take_data keeps what is new of a segment, and moves what now follows on to where it is read.
void Tcp::take_data(const Segment& segment) {
  const std::uint32_t limit = rcv_nxt + window_to_come();
  const bool fin_fits = segment.fin && !psp_before(limit, segment.end() - 1);
  if (segment.payload.empty() && !segment.fin) return;
  // Nothing comes behind a FIN that has been taken; one that data has run over was none.
  if (fin_received_ && rcv_nxt == fin_seq_ + 1) {
    if (psp_before(segment.seq, rcv_nxt)) acknowledge();
    return;
  }
  if (fin_received_ && psp_before(fin_seq_, rcv_nxt)) fin_received_ = false;
  if (fin_fits && !fin_received_) {
    fin_received_ = true;
    fin_seq_ = segment.end() - 1;
  }
  std::uint32_t from = segment.seq;
  Octets octets = segment.payload;
  if (psp_before(from, rcv_nxt)) {
    const std::size_t old = std::min<std::size_t>(rcv_nxt - from, octets.size());
    note_duplicate(from, from + static_cast<std::uint32_t>(old));
    octets.erase(octets.begin(), octets.begin() + static_cast<std::ptrdiff_t>(old));
    from += static_cast<std::uint32_t>(old);
  }
  const bool in_order = !psp_before(rcv_nxt, from);
  if (!in_order) newest_ = from;
  if (!octets.empty()) {
    // The first copy of an octet stands: pieces are only added where there is none.
    for (std::size_t i = 0; i < octets.size();) {
      const std::uint32_t at = from + static_cast<std::uint32_t>(i) - irs;
      auto next = queue_.upper_bound(at);
      if (next != queue_.begin()) {
        const auto before = std::prev(next);
        const std::uint32_t end = before->first + static_cast<std::uint32_t>(before->second.size());
        if (end > at) {
          i += end - at;
          continue;
        }
      }
      std::size_t size = octets.size() - i;
      if (next != queue_.end()) size = std::min<std::size_t>(size, next->first - at);
      if (!psp_before(irs + at, limit)) break;
      size = std::min<std::size_t>(size, limit - (irs + at));
      const auto begin = octets.begin() + static_cast<std::ptrdiff_t>(i);
      queue_[at] = Octets(begin, begin + static_cast<std::ptrdiff_t>(size));
      i += size;
    }
  }
  while (!queue_.empty() && queue_.begin()->first == rcv_nxt - irs) {
    const Octets& piece = queue_.begin()->second;
    received_.insert(received_.end(), piece.begin(), piece.end());
    rcv_nxt += static_cast<std::uint32_t>(piece.size());
    queue_.erase(queue_.begin());
  }
  if (fin_received_ && rcv_nxt == fin_seq_) return take_fin(fin_seq_);
  if (in_order && queue_.empty())
    acknowledge_soon();
  else
    acknowledge();
}

void Tcp::take_fin(std::uint32_t seq) {
  rcv_nxt = seq + 1;
  acknowledge();
  switch (state) {
    case PSP_TCP_ESTABLISHED:
      state = kCloseWait;
      return;
    case PSP_TCP_FIN_WAIT1:
      state = PSP_TCP_CLOSING;
      return;
    case PSP_TCP_FIN_WAIT2:
      return enter_time_wait();
    default:
      return;
  }
}

}  // namespace psp::sim
