// SPDX-License-Identifier: Apache-2.0
//
// TCP where there is no full socket, or not yet: listeners, requests, TIME_WAIT, resets of nobody.
//
// These are the segments that product code has most trouble with: they have no socket storage, and
// what the kernel sends for them must be sealed or silent all the same. A TIME_WAIT has the cookie
// of its full socket. Whether an answer leaves by what is left of a socket or by the kernel's
// control socket is drawn: programs must get both right.
#include <algorithm>

#include "wire/packet.hh"

#include "kernel.hh"

namespace psp::sim {
namespace {

constexpr Time kTimeWait = 60 * kSecond;
constexpr unsigned kRequestTries = 4;

}  // namespace

std::shared_ptr<Sock> Kernel::find(const Tuple& tuple) {
  const auto found = by_tuple_.find(tuple);
  if (found != by_tuple_.end()) return found->second;
  const auto listener = listeners_.find(tuple.local_port);
  return listener == listeners_.end() ? nullptr : listener->second.socket;
}

Sock* Kernel::find_socket(const Tuple& tuple) { return find(tuple).get(); }

void Kernel::deliver(Skb skb) {
  const std::span ip(skb.octets.data() + kEthernet, skb.octets.size() - kEthernet);
  unsigned family = 0;
  const auto to = destination(ip, family);
  if (!to || !is_local(*to) || !ip_checksum_ok(ip)) return;
  skb.sk = nullptr;
  if (is_icmp(ip)) return take_icmp(skb);
  const auto segment = parse_segment(ip, !skb.trusted);
  if (!segment) return;
  const auto sock = find(segment->tuple.turned());
  if (!sock) return reset_reply(*segment, nullptr);
  if (auto* past = dynamic_cast<TimeWait*>(sock.get())) return to_time_wait_socket(*past, *segment);
  if (const auto request = std::dynamic_pointer_cast<Request>(sock)) {
    const auto listener = listeners_.find(request->tuple.local_port);
    if (listener == listeners_.end() ||
        !run_cgroup(cgroup.in, skb, skb.ingress_ifindex, *listener->second.socket))
      return;
    return to_request(request, *segment, skb);
  }
  auto& socket = static_cast<Tcp&>(*sock);
  const bool passed = run_cgroup(cgroup.in, skb, skb.ingress_ifindex, socket);
  if (watcher != nullptr) watcher->judged(socket, skb, passed);
  if (!passed) return;
  if (socket.state == PSP_TCP_LISTEN)
    return to_listener(listeners_.at(socket.tuple.local_port), *segment);
  if (watcher != nullptr) watcher->taken(socket, *segment, skb);
  socket.receive(*segment);
}

void Kernel::to_listener(Listener& listener, const Segment& segment) {
  if (segment.rst) return;
  if (segment.ack || !segment.syn) return reset_reply(segment, listener.socket.get());
  auto request = std::make_shared<Request>(++common->last_socket);
  request->netns = options_.netns;
  request->tuple = segment.tuple.turned();
  request->state = PSP_TCP_NEW_SYN_RECV;
  request->iss = static_cast<std::uint32_t>(random_.next());
  request->irs = segment.seq;
  request->theirs = segment.options;
  request->recent = segment.options.value;
  request->timestamp_base = timestamp_base();
  const std::size_t headers = request->tuple.family == 4 ? 40 : 60;
  const auto mss = static_cast<std::uint16_t>(options_.mtu - headers);
  request->ours = answer_offer(offer(options_.draws ? &random_ : nullptr, mss), segment.options);
  by_tuple_[request->tuple] = request;
  answer_request(request);
}

// answer_request sends SYN and ACK, until there is an answer or nobody expects one any more.
void Kernel::answer_request(const std::shared_ptr<Request>& request) {
  const auto found = by_tuple_.find(request->tuple);
  if (found == by_tuple_.end() || found->second != request) return;
  if (++request->tries > kRequestTries) {
    by_tuple_.erase(found);
    return;
  }
  send_syn_ack(request);
  schedule_.after(kSecond << request->tries, [this, request] { answer_request(request); });
}

void Kernel::send_syn_ack(const std::shared_ptr<Request>& request) {
  Segment segment{.tuple = request->tuple, .seq = request->iss, .ack_seq = request->irs + 1};
  segment.syn = segment.ack = true;
  segment.window = kFirstWindow;
  segment.options = request->ours;
  segment.options.value = request->timestamp_base + clock_ms();
  segment.options.echo = request->recent;
  send(segment, request);
}

// may_answer: what does not fit is answered seldom, or two of these would go on for ever.
bool Kernel::may_answer(std::uint64_t& last) const {
  if (last != 0 && schedule_.now() - last < options_.pause) return false;
  last = schedule_.now();
  return true;
}

void Kernel::to_request(const std::shared_ptr<Request>& request, const Segment& segment,
                        const Skb& skb) {
  const bool timed = request->ours.timestamps && segment.options.timestamps;
  const bool old = timed && is_older(segment, request->recent);
  if (segment.syn && !segment.ack && segment.seq == request->irs && !old)
    return send_syn_ack(request);
  const std::uint32_t next = request->irs + 1;
  const bool in_window =
      !psp_before(segment.end(), next) && psp_before(segment.seq, next + kFirstWindow);
  if (segment.rst) {
    if (segment.seq == next) by_tuple_.erase(request->tuple);
    return;
  }
  if (segment.ack && segment.ack_seq != request->iss + 1) return reset_reply(segment, nullptr);
  if (old || !in_window) {
    if (!may_answer(request->answered)) return;
    const Late late{request->iss + 1, next, std::uint32_t{kFirstWindow} >> request->ours.scale,
                    request->timestamp_base, request->ours.timestamps ? request->recent : 0};
    return answer(segment, late, control_);
  }
  if (segment.syn || !segment.ack) {
    if (segment.syn) by_tuple_.erase(request->tuple), reset_reply(segment, nullptr);
    return;
  }
  if (timed && !psp_before(next, segment.seq)) request->recent = segment.options.value;
  accept_request(*request, segment, skb);
}

// accept_request: the ACK of the answer has come, and there is a full socket.
void Kernel::accept_request(const Request& request, const Segment& segment, const Skb& skb) {
  const auto listener = listeners_.find(request.tuple.local_port);
  auto socket = open();
  const Tuple tuple = request.tuple;
  Begin begin{request.iss, request.irs, request.ours, request.theirs};
  begin.window = segment.window;
  begin.timestamp_base = request.timestamp_base;
  begin.recent = request.recent;
  socket->accepted(tuple, begin);
  socket->route = &netdev(route).numbers;
  // One of IPv6 does not react to options that are set on it.
  socket->reacts = tuple.family == 4;
  by_tuple_[tuple] = socket;
  listener->second.accept(socket);
  if (socket->is_over()) return;
  if (watcher != nullptr) watcher->taken(*socket, segment, skb);
  socket->receive(segment);
}

void Kernel::to_time_wait(Tcp& socket, unsigned substate) {
  // With the cookie of the full socket, as Linux has it.
  auto past = std::make_shared<TimeWait>(socket.id);
  past->asked = socket.asked;
  past->netns = options_.netns;
  past->tuple = socket.tuple;
  past->state = PSP_TCP_TIME_WAIT;
  past->substate = static_cast<std::uint8_t>(substate);
  past->rcv_nxt = socket.rcv_nxt;
  past->snd_nxt = socket.snd_nxt;
  past->window = socket.window_to_come();
  past->scale = socket.agreed.receive_scale;
  past->timestamps = socket.agreed.timestamps;
  past->timestamp_base = socket.timestamp_base;
  past->recent = socket.recent;
  past->recent_at = socket.recent_at;
  by_tuple_[past->tuple] = past;
  schedule_.after(kTimeWait, [this, past] {
    const auto found = by_tuple_.find(past->tuple);
    if (found != by_tuple_.end() && found->second == past) by_tuple_.erase(found);
  });
}

void Kernel::to_time_wait_socket(TimeWait& past, const Segment& segment) {
  const auto keep = past.shared_from_this();
  const bool timed = past.timestamps && segment.options.timestamps;
  const bool old = timed && is_older(segment, past.recent);
  if (past.substate == PSP_TCP_FIN_WAIT2) return to_orphan(past, segment, old);
  if (!old && segment.seq == past.rcv_nxt && (segment.end() == segment.seq || segment.rst)) {
    if (segment.rst) by_tuple_.erase(past.tuple);  // tcp_rfc1337 is off
    if (!segment.rst && timed) hear(past, segment);
    return;
  }
  if (segment.rst) return;
  const bool newer = timed && psp_before(past.recent, segment.options.value);
  if (segment.syn && !segment.ack && !segment.fin && !old &&
      (psp_before(past.rcv_nxt, segment.seq) || newer)) {
    by_tuple_.erase(past.tuple);
    const auto listener = listeners_.find(past.tuple.local_port);
    if (listener == listeners_.end()) return reset_reply(segment, nullptr);
    return to_listener(listener->second, segment);
  }
  answer_late(past, segment);
}

// to_orphan: a TIME_WAIT in the place of a socket in FIN_WAIT2 that its application has let go.
void Kernel::to_orphan(TimeWait& past, const Segment& segment, bool old) {
  const auto keep = past.shared_from_this();
  const auto reset = [&] {
    by_tuple_.erase(past.tuple);
    reset_reply(segment, nullptr);
  };
  const bool in_window = !psp_before(segment.end(), past.rcv_nxt) &&
                         psp_before(segment.seq, past.rcv_nxt + past.window);
  if (old || (!in_window && segment.seq != past.rcv_nxt)) return answer_late(past, segment);
  if (segment.rst) {
    by_tuple_.erase(past.tuple);
    return;
  }
  if (segment.syn && !psp_before(segment.seq, past.rcv_nxt)) return reset();
  if (!segment.ack || segment.end() == segment.seq || !psp_before(past.rcv_nxt, segment.end()))
    return;
  if (!segment.fin || segment.end() != past.rcv_nxt + 1) return reset();
  past.substate = PSP_TCP_TIME_WAIT;
  past.rcv_nxt = segment.end();
  if (past.timestamps && segment.options.timestamps) hear(past, segment);
  answer_late(past, segment);
}

void Kernel::hear(TimeWait& past, const Segment& segment) const {
  past.recent = segment.options.value;
  past.recent_at = schedule_.now();
}

// answer_late acknowledges what comes for a TIME_WAIT.
void Kernel::answer_late(TimeWait& past, const Segment& segment) {
  if (!may_answer(past.answered)) return;
  const Late late{past.snd_nxt, past.rcv_nxt, past.window >> past.scale, past.timestamp_base,
                  past.timestamps ? past.recent : 0};
  answer(segment, late, random_.chance(500'000) ? past.shared_from_this() : control_);
}

// is_older: PAWS refuses it. A RST is refused only for a minute.
bool Kernel::is_older(const Segment& segment, std::uint32_t recent) {
  return !segment.rst && psp_before(segment.options.value, recent);
}

// reset_reply answers what no connection is for. A RST has no options.
void Kernel::reset_reply(const Segment& segment, Sock* listener) {
  if (segment.rst) return;
  const bool with_listener = listener != nullptr && random_.chance(500'000);
  Segment reset{.tuple = segment.tuple.turned(), .seq = segment.ack ? segment.ack_seq : 0};
  reset.ack_seq = segment.ack ? 0 : segment.end();
  reset.rst = true;
  reset.ack = !segment.ack;
  send(reset, with_listener ? listener->shared_from_this() : control_);
}

// answer is an ACK of what is no full socket. Linux has timestamps in it if there is one to echo.
void Kernel::answer(const Segment& to, const Late& late, std::shared_ptr<Sock> sk) {
  Segment segment{.tuple = to.tuple.turned(), .seq = late.seq, .ack_seq = late.ack};
  segment.ack = true;
  segment.window = static_cast<std::uint16_t>(std::min<std::uint32_t>(late.window, 65535));
  segment.options.timestamps = late.recent != 0;
  segment.options.value = late.timestamp_base + clock_ms();
  segment.options.echo = late.recent;
  send(segment, std::move(sk));
}

}  // namespace psp::sim
