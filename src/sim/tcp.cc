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

Tcp::Tcp(Network& network, std::uint64_t identity) : Sock(identity, true), network_(network) {}

unsigned Tcp::maximum_segment() const {
  const std::size_t ip = tuple.family == 4 ? 20 : 40;
  const std::size_t lowered = reacts ? ip_options : 0;
  return static_cast<unsigned>(network_.mtu() - ip - 20 - tcp_options - lowered);
}

std::uint32_t Tcp::receive_window() const {
  const std::size_t used = received_.size();
  return used >= kReceiveBuffer ? 0 : kReceiveBuffer - static_cast<std::uint32_t>(used);
}

bool Tcp::synchronized() const { return psp_has_sequence(state); }

void Tcp::fill(shim_sock& view) const {
  view.kernel.rcv_nxt = rcv_nxt;
  view.kernel.rcv_wnd = receive_window();
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
  congestion_ = 10u * maximum_segment();
  send_bare(iss, false, true);
  arm(kSecond);
}

void Tcp::accepted(const Tuple& from, std::uint32_t our_iss, std::uint32_t their_irs,
                   std::uint16_t window) {
  tuple = from;
  iss = our_iss;
  snd_una = snd_nxt = write_seq = iss + 1;
  irs = their_irs;
  rcv_nxt = copied_seq = irs + 1;
  snd_wnd_ = max_window_ = window;
  congestion_ = 10u * maximum_segment();
  state = PSP_TCP_ESTABLISHED;
}

std::size_t Tcp::write(std::size_t size) {
  if ((state != PSP_TCP_ESTABLISHED && state != kCloseWait) || fin_wanted_) return 0;
  const std::size_t room = kSendBuffer - std::min<std::size_t>(kSendBuffer, unacknowledged());
  size = std::min(size, room);
  write_seq += static_cast<std::uint32_t>(size);
  output();
  return size;
}

std::size_t Tcp::write(std::span<const std::uint8_t> octets) {
  if ((state != PSP_TCP_ESTABLISHED && state != kCloseWait) || fin_wanted_) return 0;
  const std::size_t room = kSendBuffer - std::min<std::size_t>(kSendBuffer, unacknowledged());
  const std::size_t size = std::min(octets.size(), room);
  if (size == 0) return 0;
  if (!written) written = std::make_shared<Written>();
  written->add(write_seq - iss - 1, octets.first(size));
  return write(size);
}

Octets Tcp::peek(std::size_t most) const {
  const auto size = static_cast<std::ptrdiff_t>(std::min(most, received_.size()));
  return Octets(received_.begin(), received_.begin() + size);
}

Octets Tcp::read(std::size_t most) {
  const std::size_t size = std::min(most, received_.size());
  const bool was_full = receive_window() < 2 * maximum_segment();
  Octets octets = peek(size);
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
