// SPDX-License-Identifier: Apache-2.0
//
// What happens to a packet on its way, and what the enemy makes. Packets arrive in order unless
// they are to be reordered: TCP would not show much otherwise.
//
// The enemy keeps what he has seen, some of it for long: an old packet after a rotation, or after
// another connection has the ports, is worth more than a fresh one. What he makes fits as well as
// it can, with the numbers of a live connection; nonsense would be dropped before it is
// interesting. Chance is drawn also for what is off, so that plans differ in nothing else.
#include "link.hh"

#include <algorithm>
#include <cstring>

#include "wire/bytes.hh"

#include "content.hh"

namespace psp::sim {

Link::Link(Schedule& schedule, Random random, const Plan& plan, Calls calls)
    : schedule_(schedule), random_(random), plan_(plan), calls_(std::move(calls)) {}

bool Link::now(Feature feature, std::uint32_t part) {
  const bool chosen = random_.chance(part);
  return chosen && !calm_ && plan_.has(feature);
}

void Link::send(unsigned from, Octets packet, bool is_forged) {
  const unsigned to = 1 - from;
  ++packets;
  keep(to, packet);
  if (is_too_big(from, packet)) return;
  if (now(Feature::k_loss, 30'000)) {
    ++lost;
    return;
  }
  bool changed_here = is_forged;
  if (now(Feature::k_corrupt, 20'000)) {
    const std::uint64_t bit = random_.below(8 * (packet.size() - kEthernet));
    packet[kEthernet + bit / 8] ^= static_cast<std::uint8_t>(1u << bit % 8);
    changed_here = true;
  }
  if (now(Feature::k_truncate, 10'000)) {
    packet.resize(kEthernet + random_.below(packet.size() - kEthernet) + 1);
    changed_here = true;
  }
  changed += changed_here && !is_forged;
  Time delay = 20 * kMicrosecond;
  if (now(Feature::k_delay, 10'000)) delay += random_.below(400 * kMillisecond);
  if (now(Feature::k_duplicate, 20'000))
    deliver(to, packet, changed_here, delay + random_.below(kMillisecond));
  if (now(Feature::k_reorder, 50'000)) {
    deliver(to, std::move(packet), changed_here, delay + random_.below(kMillisecond));
    return;
  }
  // In order with what is in order.
  const Time at = std::max(schedule_.now() + delay, last_[to]);
  last_[to] = at;
  deliver(to, std::move(packet), changed_here, at - schedule_.now());
}

void Link::deliver(unsigned to, Octets packet, bool is_forged, Time delay) {
  schedule_.after(delay, [this, to, is_forged, packet = std::move(packet)]() mutable {
    if (calls_.seen) calls_.seen(to, packet, is_forged);
    calls_.arrive(to, std::move(packet), is_forged);
  });
}

// keep: the enemy keeps the newest packets, and some old ones for long.
void Link::keep(unsigned to, const Octets& packet) {
  const std::uint64_t place =
      random_.chance(20'000) ? random_.below(128) : 128 + random_.below(128);
  kept_[place] = {to, packet};
}

void Link::act() {
  if (calm_) return;
  if (plan_.has(Feature::k_replay)) replay();
  if (plan_.has(Feature::k_inject)) inject();
  if (plan_.has(Feature::k_forge)) forge();
  if (now(Feature::k_mtu, 20'000)) change_path();
  if (now(Feature::k_icmp, 300'000)) forge_icmp();
}

void Link::replay() {
  const Kept& kept = kept_[random_.below(kept_.size())];
  if (kept.packet.empty()) return;
  ++replayed;
  // To the one that it was for, or back to its sender.
  const unsigned to = random_.chance(50'000) ? 1 - kept.to : kept.to;
  Octets packet = kept.packet;
  // Root of a container gives what was for the host to the container, and the other way round.
  const bool elsewhere = random_.chance(200'000);
  if (elsewhere && plan_.has(Feature::k_container_root)) packet[kBoxedAt] ^= 1;
  deliver(to, std::move(packet), true, random_.below(kMillisecond));
}

// inject makes a segment in clear that fits a connection: data, ACK, FIN, RST, SYN.
void Link::inject() {
  const auto targets = calls_.targets();
  if (targets.empty()) return;
  const Target& target = targets[random_.below(targets.size())];
  Segment segment{.tuple = target.tuple, .seq = target.seq, .ack_seq = target.ack_seq};
  if (random_.chance(300'000)) segment.seq += static_cast<std::uint32_t>(random_.below(3000));
  if (random_.chance(100'000)) segment.seq -= static_cast<std::uint32_t>(random_.below(3000));
  segment.window = static_cast<std::uint16_t>(random_.below(65536));
  segment.ack = !random_.chance(50'000);
  segment.rst = random_.chance(50'000);
  segment.syn = random_.chance(20'000);
  segment.fin = random_.chance(100'000);
  segment.urg = random_.chance(50'000);
  const bool ahead = random_.chance(100'000);
  segment.options.timestamps = random_.chance(700'000) && target.timestamp != 0;
  segment.options.value = target.timestamp + (ahead ? 0x10000000u : 0);
  if (random_.chance(700'000)) {
    segment.payload.resize(random_.between(1, 1400));
    random_.fill(segment.payload);
  }
  ++injected;
  Octets packet = cut(build(segment)).front();
  packet[kBoxedAt] = target.boxed;
  deliver(target.host, std::move(packet), true, random_.below(kMillisecond));
}

// forge changes a PSP packet anywhere: numbers, flags, text, ICV.
void Link::forge() {
  const Kept& kept = kept_[random_.below(kept_.size())];
  if (kept.packet.size() < kEthernet + 60) return;
  const std::span ip(kept.packet.data() + kEthernet, kept.packet.size() - kEthernet);
  if (!is_psp(ip)) return;
  Octets packet = kept.packet;
  const std::size_t first = kEthernet + ((ip[0] >> 4) == 4 ? 20u : 40u) + 8;
  const std::uint64_t changes = random_.between(1, 3);
  for (std::uint64_t i = 0; i < changes; ++i) {
    const std::uint64_t at =
        random_.chance(500'000) ? random_.below(16) : random_.below(packet.size() - first);
    packet[first + at] = static_cast<std::uint8_t>(random_.next());
  }
  ++forged;
  deliver(kept.to, std::move(packet), true, random_.below(kMillisecond));
}

}  // namespace psp::sim
