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
  request->window = segment.window;
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
  Segment segment{.tuple = request->tuple, .seq = request->iss, .ack_seq = request->irs + 1};
  segment.syn = segment.ack = true;
  segment.window = 60000;
  send(segment, request);
  schedule_.after(kSecond << request->tries, [this, request] { answer_request(request); });
}

void Kernel::to_request(const std::shared_ptr<Request>& request, const Segment& segment,
                        const Skb& skb) {
  if (segment.syn && !segment.ack && segment.seq == request->irs) {
    Segment again{.tuple = request->tuple, .seq = request->iss, .ack_seq = request->irs + 1};
    again.syn = again.ack = true;
    again.window = 60000;
    return send(again, request);
  }
  const std::uint32_t next = request->irs + 1;
  const bool in_window = !psp_before(segment.seq, next) && psp_before(segment.seq, next + 60000);
  if (segment.rst) {
    if (segment.seq == next) by_tuple_.erase(request->tuple);
    return;
  }
  if (!segment.ack || segment.ack_seq != request->iss + 1 || segment.syn)
    return reset_reply(segment, nullptr);
  if (!in_window) return;
  const auto listener = listeners_.find(request->tuple.local_port);
  auto socket = open();
  socket->accepted(request->tuple, request->iss, request->irs, segment.window);
  socket->route = &netdev(route).numbers;
  // One of IPv6 does not react to options that are set on it.
  socket->reacts = request->tuple.family == 4;
  by_tuple_[request->tuple] = socket;
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
  past->window = 60000;
  by_tuple_[past->tuple] = past;
  schedule_.after(kTimeWait, [this, past] {
    const auto found = by_tuple_.find(past->tuple);
    if (found != by_tuple_.end() && found->second == past) by_tuple_.erase(found);
  });
}

void Kernel::to_time_wait_socket(TimeWait& past, const Segment& segment) {
  const auto keep = past.shared_from_this();
  const auto gone = [&] { by_tuple_.erase(past.tuple); };
  const auto acknowledge = [&] {
    // Seldom, or two of these would go on for ever.
    if (past.answered != 0 && schedule_.now() - past.answered < options_.pause) return;
    past.answered = schedule_.now();
    answer(segment, past.snd_nxt, past.rcv_nxt, false, random_.chance(500'000) ? keep : control_);
  };
  const bool in_window = !psp_before(segment.end(), past.rcv_nxt) &&
                         psp_before(segment.seq, past.rcv_nxt + past.window);
  if (past.substate == PSP_TCP_FIN_WAIT2) {
    if (!in_window) return acknowledge();
    if (segment.rst) return gone();
    if (segment.syn && psp_before(past.rcv_nxt, segment.seq + 1)) {
      gone();
      return reset_reply(segment, nullptr);
    }
    if (!segment.ack || segment.end() == segment.seq) return;
    if (!segment.fin || segment.end() != past.rcv_nxt + 1) {
      gone();
      return reset_reply(segment, nullptr);
    }
    past.substate = PSP_TCP_TIME_WAIT;
    past.rcv_nxt = segment.end();
    return acknowledge();
  }
  if (segment.rst || (segment.seq == past.rcv_nxt && segment.end() == segment.seq)) return;
  if (segment.syn && !segment.ack && !segment.fin && psp_before(past.rcv_nxt, segment.seq)) {
    gone();
    const auto listener = listeners_.find(past.tuple.local_port);
    if (listener == listeners_.end()) return reset_reply(segment, nullptr);
    return to_listener(listener->second, segment);
  }
  acknowledge();
}

// reset_reply answers what no connection is for.
void Kernel::reset_reply(const Segment& segment, Sock* listener) {
  if (segment.rst) return;
  const bool with_listener = listener != nullptr && random_.chance(500'000);
  answer(segment, segment.ack ? segment.ack_seq : 0, segment.ack ? 0 : segment.end(), true,
         with_listener ? listener->shared_from_this() : control_);
}

void Kernel::answer(const Segment& to, std::uint32_t seq, std::uint32_t ack, bool rst,
                    std::shared_ptr<Sock> sk) {
  Segment segment{.tuple = to.tuple.turned(), .seq = seq, .ack_seq = ack};
  segment.rst = rst;
  segment.ack = !rst || !to.ack;
  send(segment, std::move(sk));
}

}  // namespace psp::sim
