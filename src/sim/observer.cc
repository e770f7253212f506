// SPDX-License-Identifier: Apache-2.0
//
// Each check is a promise of docs/security.md, or what follows from one. What is allowed to be
// otherwise is named where it is let pass.
//
// What is in clear is judged by what the application did: where it stood in its stream at tx-assoc,
// and which octets it wrote. Their content is a function of stream and place, so no copy is needed,
// and an octet of one connection that turns up in another is seen. A mark in all content shows text
// inside a packet that should be sealed.
#include "observer.hh"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>

#include "wire/bytes.hh"
#include "wire/constants.h"

#include "content.hh"
#include "icmp.hh"

namespace psp::sim {
namespace {

// For so long what the kernel sends without a socket is sealed (host::Departures::kTimeWait).
constexpr Time kTimeWait = 120 * kSecond;
constexpr Time kQuoteAge = 60 * kSecond;
constexpr std::uint8_t kUdp = 17;
constexpr std::size_t kIvAt = PSP_UDP_HEADER + 8, kPspBegin = kIvAt + 8;

bool has_mark(std::span<const std::uint8_t> octets) {
  return memmem(octets.data(), octets.size(), kMark.data(), kMark.size()) != nullptr;
}

std::string flags_of(const Segment& s) {
  std::string flags;
  for (const auto& [set, letter] : {std::pair{s.syn, 'S'},
                                    {s.fin, 'F'},
                                    {s.rst, 'R'},
                                    {s.psh, 'P'},
                                    {s.ack, 'A'},
                                    {s.urg, 'U'}})
    if (set) flags += letter;
  return flags;
}

std::string name_of(unsigned place) {
  return fmt::format("{} {}", place < 2 ? "host" : "container", place % 2);
}

}  // namespace

void Observer::fail(const std::string& what) {
  if (!breach_) breach_ = what;
}

void Observer::begins(const std::shared_ptr<End>& end) {
  auto& place = ends_[{end->place, end->tuple}];
  if (const auto socket = end->socket.lock()) end->iss = socket->iss;
  if (place && place->before) note_keys(*place->before);
  if (place) place->before.reset();
  end->before = std::exchange(place, end);
}

// wrote_in_clear: are these octets that the application wrote before tx-assoc?
bool Observer::wrote_in_clear(const End& end, const Segment& segment) {
  const std::uint32_t last = segment.seq + static_cast<std::uint32_t>(segment.payload.size());
  if (end.secured && psp_before(end.boundary, last)) return false;
  return is_written(end.stream, end.written.get(), segment.seq - end.iss - 1, segment.payload);
}

// note_keys is for an end that is forgotten: packets of it may still be under way.
void Observer::note_keys(const End& end) {
  if (end.tx_spi != 0) keys_.insert({end.place, end.tx_spi});
}

bool Observer::has_key(unsigned place, std::uint32_t spi) {
  if (keys_.contains({place, spi})) return true;
  for (const auto& [key, end] : ends_)
    for (const End* one = end.get(); one != nullptr; one = one->before.get()) note_keys(*one);
  return keys_.contains({place, spi});
}

void Observer::forget(unsigned place) {
  std::erase_if(ends_, [this, place](const auto& entry) {
    if (entry.first.first != place) return false;
    note_keys(*entry.second);
    return true;
  });
}

// is_secret: are these octets that the application wrote after tx-assoc? Few can be anybody's.
bool Observer::is_secret(const End& end, const Segment& segment) {
  constexpr std::size_t kEnough = 16;
  const std::uint32_t last = segment.seq + static_cast<std::uint32_t>(segment.payload.size());
  return end.secured && segment.payload.size() >= kEnough && psp_before(end.boundary, last) &&
         is_written(end.stream, end.written.get(), segment.seq - end.iss - 1, segment.payload);
}

void Observer::gone(unsigned place, std::uint64_t cookie) {
  for (auto& [key, end] : ends_)
    if (key.first == place && end->cookie == cookie && end->gone == 0) end->gone = schedule_.now();
}

void Observer::left(unsigned place, const Sock& socket) {
  const auto end = find(place, socket.tuple);
  if (end != nullptr && end->cookie == socket.id) end->left = true;
}

std::shared_ptr<End> Observer::find(unsigned place, const Tuple& tuple) const {
  const auto found = ends_.find({place, tuple});
  return found == ends_.end() ? nullptr : found->second;
}

void Observer::sent(unsigned place, const Octets& packet) {
  const std::span ip(packet.data() + kEthernet, packet.size() - kEthernet);
  if (is_psp(ip))
    sent_psp(place, ip);
  else
    sent_clear(place, ip);
}

void Observer::sent_psp(unsigned place, std::span<const std::uint8_t> ip) {
  const auto numbers = psp_numbers(ip);
  if (!numbers) return fail("a PSP packet without a whole header was sent");
  ++sealed[place % 2];
  const unsigned host = place % 2;
  // IVs only grow, in all lives of pspd on a host: so none comes twice under a key.
  if (numbers->iv <= last_iv_[host] && last_iv_[host] != 0)
    fail(fmt::format("host {}: IV {} after {}: a (key, IV) pair can come twice", host, numbers->iv,
                     last_iv_[host]));
  last_iv_[host] = std::max(last_iv_[host], numbers->iv);
  auto& ivs = ivs_[host];
  ivs.emplace_back(numbers->iv, schedule_.now());
  while (schedule_.now() - ivs.front().second > kQuoteAge) ivs.pop_front();
  const std::size_t header = (ip[0] >> 4) == 4 ? 20 : 40;
  const unsigned version = ip[header + PSP_UDP_HEADER + 3] >> 2 & 15;
  if (version < 2 && has_mark(ip))
    fail(fmt::format("host {}: octets of an application in clear inside of a PSP packet", host));
  if (!has_key(place, numbers->spi))
    fail(fmt::format("{}: sealed under SPI {:x}, which nobody there was given", name_of(place),
                     numbers->spi));
}

void Observer::sent_clear(unsigned place, std::span<const std::uint8_t> ip) {
  const auto segment = parse_segment(ip, true);
  if (!segment) {
    if (parse_tuple(ip)) fail(fmt::format("{}: a damaged TCP segment was sent", name_of(place)));
    return;
  }
  const auto end = find(place, segment->tuple);
  if (end == nullptr) return;
  if (end->before && is_secret(*end->before, *segment))
    return fail(fmt::format("{}: octets of the connection that had these ports before, in clear",
                            name_of(place)));
  if (!end->secured) return;
  coverage_.count("clear after tx-assoc", segment->payload.empty() ? "bare" : "data");
  const std::string what = fmt::format(
      "{}: {}:{} -> {} in clear, flags {}, seq {}, {} octets, boundary {}, {}", name_of(place),
      segment->tuple.family, segment->tuple.local_port, segment->tuple.remote_port,
      flags_of(*segment), segment->seq, segment->payload.size(), end->boundary,
      end->gone == 0
          ? "its socket is there"
          : fmt::format("its socket has gone {} us ago", (schedule_.now() - end->gone) / 1000));
  const std::uint32_t last = segment->seq + static_cast<std::uint32_t>(segment->payload.size());
  if (!segment->payload.empty()) {
    // What was written before tx-assoc stays in clear, and nothing else. It can have waited for a
    // pspd that did not run, while the socket began anew.
    if (end->before && wrote_in_clear(*end->before, *segment)) return;
    if (psp_before(end->boundary, last)) return fail("octets written after tx-assoc: " + what);
    if (segment->fin || segment->rst) return fail("the end of a secured connection: " + what);
    return;
  }
  if (segment->fin) return fail("the end of a secured connection: " + what);
  const bool departed = end->gone != 0;
  // A socket that has a Tx key keeps it, also for the next connection that it begins.
  if (segment->syn && !segment->ack && !departed) return fail("a SYN of a secured socket: " + what);
  // A SYN begins another connection, and is answered in clear by a host that has nobody there.
  // With that the one before is forgotten (psp_supersede), be it that the enemy has sent the SYN.
  if (segment->syn && departed) end->superseded = true;
  const bool answers_syn = segment->rst && segment->ack && segment->seq == 0;
  if (segment->syn || (departed && answers_syn)) return;
  // Of a socket only its last connection is noted (psp_unnote).
  if (departed && end->superseded)
    return coverage_.count("clear after tx-assoc", "bare, superseded");
  // What had its keys first and never came to send: nobody has heard of it, and nothing is noted.
  if (departed && !end->left && segment->rst)
    return coverage_.count("clear after tx-assoc", "bare, never sent");
  // What the kernel sends without a socket is known only where the programs are
  // (docs/simulation.md).
  if (departed && !has_egress(place))
    return coverage_.count("clear after tx-assoc", "bare, unseen");
  // A connection is forgotten some time after its socket; at once if its keys died with their pspd.
  if (departed && (schedule_.now() - end->gone > kTimeWait || end->life != hosts[place % 2].life))
    return;
  fail("a segment of a secured connection: " + what);
}

void Observer::read(const End& end, std::uint32_t seq, std::uint32_t irs, const Octets& octets) {
  const Written* real = end.peer_written.get();
  if (is_written(end.peer_stream, real, seq - irs - 1, octets)) return;
  Octets expected(octets.size());
  write_stream(end.peer_stream, real, seq - irs - 1, expected);
  for (std::size_t i = 0; i < octets.size(); ++i) {
    const std::uint32_t at = seq + static_cast<std::uint32_t>(i);
    const bool after = end.secured && !psp_before(at, end.read_boundary);
    if (octets[i] == expected[i] || (end.touched && !after)) continue;
    return fail(fmt::format("{}: read {} octet {} of {}:{} that the peer did not write",
                            name_of(end.place), after ? "after tx-assoc" : "in clear", at - irs - 1,
                            end.tuple.local_port, end.tuple.remote_port));
  }
}

// harmless: would the peer itself have sent that, in this connection?
bool Observer::harmless(const End& end, const Segment& segment) const {
  const auto other = find(end.peer_place, end.tuple.turned());
  const auto peer = other == nullptr ? nullptr : other->socket.lock();
  if (!peer || peer->stream != end.peer_stream || segment.rst || segment.syn || segment.urg)
    return false;
  if (psp_before(peer->write_seq, segment.seq + static_cast<std::uint32_t>(segment.payload.size())))
    return false;
  if (psp_before(peer->rcv_nxt, segment.ack_seq) || segment.fin) return false;
  // A timestamp of the future makes all that the peer sends old.
  const std::uint32_t clock =
      peer->timestamp_base + static_cast<std::uint32_t>(schedule_.now() / kMillisecond);
  if (segment.options.timestamps && psp_before(clock, segment.options.value)) return false;
  return is_written(end.peer_stream, end.peer_written.get(), segment.seq - peer->iss - 1,
                    segment.payload);
}

void Observer::let_in(unsigned place, const Tcp& socket, const Segment& segment, const Skb& skb) {
  const auto end = find(place, socket.tuple);
  if (end == nullptr || end->cookie != socket.id) return;
  const unsigned host = place % 2;
  const Host& now = hosts[host];
  const bool verified = now.verified != 0 && skb.tc_index == now.verified && skb.opened;
  if (!verified) {
    if (skb.forged && !harmless(*end, segment)) end->touched = true;
    if (end->secured && end->heard)
      fail(fmt::format("{}: a segment in clear is let in though the peer is under PSP, flags {}",
                       name_of(place), flags_of(segment)));
    if (end->secured && (segment.urg || (!segment.payload.empty() && !segment.syn)))
      fail(fmt::format("{}: data in clear is let in after tx-assoc", name_of(place)));
    return;
  }
  // Data that is not believed to be opened would not pass.
  end->heard |= end->secured && !segment.payload.empty();
  if (skb.place != place)
    return fail(fmt::format("{}: opened in another namespace", name_of(place)));
  if (!end->has_rx) return fail(fmt::format("host {}: opened for a socket without Rx key", host));
  if (end->life != now.life)
    return fail(fmt::format("host {}: opened under a key of an earlier pspd", host));
  // With one key for one connection: what the peer seals is under the one that it was given here.
  const auto peer = find(end->peer_place, socket.tuple.turned());
  if (peer && peer->tx_spi != 0 && peer->stream == end->peer_stream && peer->tx_spi != end->rx_spi)
    fail(fmt::format("host {}: opened under the key of another connection", host));
  if (now.rotations - end->rotation > 1)
    fail(fmt::format("host {}: opened under a key {} rotations old", host,
                     now.rotations - end->rotation));
  const auto sender = peer && peer->stream == end->peer_stream ? peer->socket.lock() : nullptr;
  const std::uint32_t last = segment.seq + static_cast<std::uint32_t>(segment.payload.size());
  if (sender && !segment.payload.empty() && !segment.psh &&
      sender->pushed.contains(last - sender->iss))
    fail(fmt::format("host {}: the PSH of a segment is lost on its way", host));
}

void Observer::path_shrank(unsigned place, const Skb& error, std::size_t mtu) {
  const std::span ip(error.original->data() + kEthernet, error.original->size() - kEthernet);
  const auto quote = quote_of(ip);
  const std::size_t header = quote[0] >> 4 == 4 ? std::size_t{quote[0] & 15u} * 4 : 40;
  const bool sealed_packet = quote[quote[0] >> 4 == 4 ? 9 : 6] == kUdp;
  coverage_.count("path MTU falls",
                  fmt::format("{}, {}", error.forged ? "by an enemy" : "by a router",
                              sealed_packet ? "PSP quoted" : "TCP quoted"));
  if (mtu < (quote[0] >> 4 == 4 ? 552u : 1280u))
    return fail(fmt::format("{}: a path MTU of {}", name_of(place), mtu));
  if (!sealed_packet) return;
  // Only who has seen a packet of the last minute may do that (docs/security.md).
  if (quote.size() < header + kPspBegin)
    return fail("an ICMP error about PSP that says too little");
  const auto iv = wire::load_be<std::uint64_t>(quote.data() + header + kIvAt);
  // He may have changed its IV by less than that: the programs know times, not packets.
  const auto& ivs = ivs_[place % 2];
  const auto seen = [&](const auto& sent) {
    const std::uint64_t apart = sent.first > iv ? sent.first - iv : iv - sent.first;
    return apart < kQuoteAge * 1000 && schedule_.now() - sent.second < kQuoteAge;
  };
  const auto next = std::ranges::lower_bound(ivs, std::pair<std::uint64_t, Time>(iv, 0));
  if ((next != ivs.end() && seen(*next)) || (next != ivs.begin() && seen(*std::prev(next)))) return;
  fail(fmt::format("{}: the path MTU fell for a packet that was never sent, or long ago",
                   name_of(place)));
}

}  // namespace psp::sim
