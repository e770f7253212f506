// SPDX-License-Identifier: Apache-2.0
//
// What applications do with a socket, and how it ends. Closing follows Linux: data that nobody has
// read makes it a reset, an orphan in FIN_WAIT2 becomes a TIME_WAIT at once, a disconnected socket
// can connect again.
//
// over() is the end of a connection, has_ended() that of the socket: the latter only when the
// application has let go as well. Timers carry a number; one whose number has moved on is no more.
#include "tcp.hh"

#include <algorithm>
#include <cerrno>

namespace psp::sim {
namespace {

std::size_t header_of(const Tuple& tuple) { return tuple.family == 4 ? 40 : 60; }

}  // namespace

Tcp::Tcp(Network& network, std::uint64_t identity) : Sock(identity, true), network_(network) {}

// maximum_segment is mss_cache: what the path and the peer leave, less the options of all segments.
unsigned Tcp::maximum_segment() const {
  constexpr std::size_t kLeast = 48;  // tcp_min_snd_mss
  const std::size_t ip = tuple.family == 4 ? 20 : 40;
  const std::size_t lowered = reacts ? ip_options : 0;
  const std::size_t most = std::min<std::size_t>(path_mtu_ - ip - 20, agreed.mss);
  const std::size_t size = std::max(most > lowered ? most - lowered : 0, kLeast);
  return static_cast<unsigned>(size - (agreed.timestamps ? 12 : 0));
}

void Tcp::learn_mtu() { path_mtu_ = network_.mtu(tuple); }

std::uint32_t Tcp::free_space() const {
  const std::size_t used = received_.size();
  return used >= receive_buffer_ ? 0 : receive_buffer_ - static_cast<std::uint32_t>(used);
}

std::uint32_t Tcp::window_to_come() const {
  const std::uint32_t end = rcv_wup_ + rcv_wnd_;
  return psp_before(rcv_nxt, end) ? end - rcv_nxt : 0;
}

bool Tcp::synchronized() const { return psp_has_sequence(state); }

void Tcp::fill(shim_sock& view) const {
  view.kernel.rcv_nxt = rcv_nxt;
  view.kernel.rcv_wnd = rcv_wnd_;
  view.kernel.copied_seq = copied_seq;
  view.kernel.snd_una = snd_una;
  view.kernel.snd_nxt = snd_nxt;
  view.kernel.write_seq = write_seq + fin_sent_;
  view.kernel.mss_cache = maximum_segment();
  view.kernel.queue = !queue_.empty();
  if (!queue_.empty())
    view.kernel.queue_end =
        irs + queue_.rbegin()->first + static_cast<std::uint32_t>(queue_.rbegin()->second.size());
  view.kernel.uid = uid;
  view.kernel.route = route;
}

void Tcp::connect(const Tuple& to) {
  tuple = to;
  iss = static_cast<std::uint32_t>(network_.random().next());
  snd_una = iss;
  snd_nxt = write_seq = iss + 1;
  state = PSP_TCP_SYN_SENT;
  small_end_ = snd_una;
  agreed = {};
  recent_at = 0;
  timestamp_base = network_.timestamp_base();
  learn_mtu();
  offered_ = offer(network_.draws() ? &network_.random() : nullptr,
                   static_cast<std::uint16_t>(path_mtu_ - header_of(tuple)));
  send_bare(iss, false, true);
  arm(kSecond);
}

void Tcp::accepted(const Tuple& from, const Begin& known) {
  tuple = from;
  iss = known.iss;
  snd_una = snd_nxt = write_seq = small_end_ = iss + 1;
  irs = known.irs;
  snd_wnd_ = known.window;
  timestamp_base = known.timestamp_base;
  recent = known.recent;
  begin(known.ours, known.theirs);
}

// begin: both SYNs have been seen.
void Tcp::begin(const Options& ours, const Options& theirs) {
  agreed = agree(ours, theirs);
  recent_at = agreed.timestamps ? network_.schedule().now() : 0;
  rcv_nxt = copied_seq = rcv_wup_ = irs + 1;
  rcv_wnd_ = kFirstWindow;
  snd_wl1_ = irs;
  const bool big = network_.random().chance(300'000);
  receive_buffer_ = agreed.receive_scale > 1 && big ? 150000 : kFirstWindow;
  learn_mtu();
  congestion_ = 10u * maximum_segment();
  state = PSP_TCP_ESTABLISHED;
}

std::size_t Tcp::room() const {
  if ((state != PSP_TCP_ESTABLISHED && state != kCloseWait) || fin_wanted_) return 0;
  return kSendBuffer - std::min<std::size_t>(kSendBuffer, write_seq - snd_una);
}

std::size_t Tcp::write(std::size_t size) {
  size = std::min(size, room());
  if (size == 0) return 0;
  write_seq += static_cast<std::uint32_t>(size);
  output();
  return size;
}

std::size_t Tcp::write(std::span<const std::uint8_t> octets) {
  octets = octets.first(std::min(octets.size(), room()));
  if (octets.empty()) return 0;
  if (!written) written = std::make_shared<Written>();
  written->add(write_seq - iss - 1, octets);
  return write(octets.size());
}

Octets Tcp::peek(std::size_t most) const {
  const std::size_t size = std::min(most, received_.size());
  return {received_.begin(), received_.begin() + static_cast<std::ptrdiff_t>(size)};
}

Octets Tcp::read(std::size_t most) {
  const bool was_full = window_to_come() < 2 * maximum_segment();
  Octets octets = peek(most);
  const std::size_t size = octets.size();
  received_.erase(received_.begin(), received_.begin() + static_cast<std::ptrdiff_t>(size));
  copied_seq += static_cast<std::uint32_t>(size);
  if (was_full && size != 0 && synchronized()) acknowledge();
  return octets;
}

void Tcp::shutdown() {
  if (state == PSP_TCP_ESTABLISHED)
    state = PSP_TCP_FIN_WAIT1;
  else if (state == kCloseWait)
    state = PSP_TCP_LAST_ACK;
  else
    return;
  fin_wanted_ = true;
  output();
}

void Tcp::close() {
  if (closed_) return;
  const auto keep = shared_from_this();
  closed_ = true;
  if (state == PSP_TCP_SYN_SENT) return over();
  if (state == PSP_TCP_CLOSE) return network_.has_ended(*this);
  if (!received_.empty() || !queue_.empty()) {
    send_bare(snd_nxt, true, false);
    return over();
  }
  shutdown();
  if (state == PSP_TCP_FIN_WAIT2) {
    network_.to_time_wait(*this, PSP_TCP_FIN_WAIT2);
    over();
  }
}

void Tcp::abort() {
  if (closed_) return;
  const auto keep = shared_from_this();
  closed_ = true;
  if (state == PSP_TCP_CLOSE) return network_.has_ended(*this);
  if (synchronized() && state != PSP_TCP_TIME_WAIT) send_bare(snd_nxt, true, false);
  over();
}

void Tcp::disconnect() {
  if (synchronized() && state != PSP_TCP_LAST_ACK && state != PSP_TCP_CLOSING)
    send_bare(snd_nxt, true, false);
  fail_with(ECONNRESET);
  error = 0;
  received_.clear();
  queue_.clear();
  pushed.clear();
  sacked_.clear();
  duplicate_.reset();
  recovers_ = false;
  fin_wanted_ = fin_sent_ = fin_received_ = false;
  duplicates_ = tries_ = 0;
  tuple = Tuple{.family = tuple.family};
  copied_seq = rcv_nxt = 0;
}

void Tcp::destroy() {
  const auto keep = shared_from_this();
  if (state == PSP_TCP_CLOSE) return;
  if (synchronized()) send_bare(snd_nxt, true, false);
  fail_with(ECONNABORTED);
}

void Tcp::fail_with(int number) {
  error = number;
  over();
}

// over: no connection is left of it. What was received can still be read, if all went well.
void Tcp::over() {
  if (state == PSP_TCP_CLOSE) return;
  const auto keep = shared_from_this();
  state = PSP_TCP_CLOSE;
  ++timer_;
  ++ack_timer_;
  armed_ = ack_armed_ = ack_owed_ = false;
  network_.unhash(*this);
  if (closed_) network_.has_ended(*this);
}

void Tcp::enter_time_wait() {
  network_.to_time_wait(*this, PSP_TCP_TIME_WAIT);
  over();
}

}  // namespace psp::sim
