// SPDX-License-Identifier: Apache-2.0
//
// The way of a packet through a host: out by the cgroup, the netdev's hooks and the netdev; in by
// GRO, the hooks and IP; between the two by the TAP. What a redirect meets is what it would meet in
// Linux, the hooks of the other netdev among it.
#include <algorithm>
#include <cstring>

#include "datapath/frame.hh"
#include "datapath/frame_tag.h"
#include "wire/bytes.hh"
#include "wire/packet.hh"

#include "kernel.hh"

namespace psp::sim {
namespace {

constexpr int kUnspec = -1, kOk = 0, kRedirected = 7;

// applies: what writes on packets is somebody's who wants to be first; behind pspd's programs he
// would give the proof to his own packets, which is his affair (world_containers.cc).
bool applies(const Netdev::Hook& hook, const Program& program) {
  if (program.sign == 0) return true;
  return program.id == (hook.tcx.empty() ? hook.filters : hook.tcx).front().id;
}

}  // namespace

int Kernel::run(const Program& program, Skb& skb, std::uint32_t ifindex, std::size_t l3, Sock* sk) {
  Netdev& netdev = netdevs_.at(ifindex);
  const auto first = [](const std::vector<Program>& list) {
    return list.empty() ? 0 : list.front().id;
  };
  for (const auto& [way, hook] : {std::pair(SHIM_OUT, &netdev.out), {SHIM_IN, &netdev.in}}) {
    netdev.numbers.tcx_first[way] = first(hook->tcx);
    netdev.numbers.clsact_first[way] = first(hook->filters);
  }
  shim_skb view{};
  view.kernel.octets = skb.octets.data() + l3;
  view.kernel.size = view.len = static_cast<std::uint32_t>(skb.octets.size() - l3);
  view.kernel.netdev = &netdev.numbers;
  view.mark = skb.mark;
  view.pkt_type = skb.other_host ? 3 : 0;
  std::memcpy(&view.protocol, skb.octets.data() + 12, 2);
  view.ingress_ifindex = skb.ingress_ifindex;
  view.ifindex = ifindex;
  view.tc_index = skb.tc_index;
  view.gso_size = skb.gso_size;
  if (skb.gso_size != 0)
    view.gso_segs =
        static_cast<std::uint32_t>((skb.octets.size() + skb.gso_size - 1) / skb.gso_size);
  // Any part of it may be linear.
  const std::uint32_t linear =
      random_.chance(50'000) ? static_cast<std::uint32_t>(random_.below(view.len + 1)) : view.len;
  view.data = reinterpret_cast<std::uintptr_t>(view.kernel.octets);
  view.data_end = view.data + linear;
  view.sk = sk == nullptr ? nullptr : &sk->refresh();
  const int result = program.run(&view);
  skb.mark = program.mark != 0 ? program.mark : view.mark;
  skb.tc_index = program.sign != 0 ? program.sign : static_cast<std::uint16_t>(view.tc_index);
  // As the kernel does with a class and TC_ACT_OK.
  if (l3 == 0 && result == kOk) skb.tc_index = static_cast<std::uint16_t>(view.tc_classid);
  return result;
}

bool Kernel::run_cgroup(const std::vector<Program>& programs, Skb& skb, std::uint32_t ifindex,
                        Sock& sk) {
  bool pass = true;
  for (const Program& program : programs) {
    const Running call(*this, *program.object);
    const bool passed = run(program, skb, ifindex, kEthernet, &sk) == 1;
    program.object->dropped += !passed;
    pass &= passed;
  }
  return pass;
}

Kernel::Result Kernel::run_hook(const Netdev::Hook& hook, Skb& skb, std::uint32_t ifindex) {
  for (const auto* list : {&hook.tcx, &hook.filters}) {
    for (const Program& program : *list) {
      if (!applies(hook, program)) continue;
      const Running call(*this, *program.object);
      const int result = run(program, skb, ifindex, 0, skb.sk.get());
      if (result == kUnspec) continue;
      if (result == kOk) return {};
      if (result == kRedirected) return {Verdict::kRedirect, call.redirect.value()};
      ++program.object->dropped;
      return {Verdict::kDrop, {}};
    }
  }
  return {};
}

void Kernel::send(const Segment& segment, std::shared_ptr<Sock> sk) {
  Skb skb = build(segment);
  address(skb, segment.tuple.remote);
  skb.sk = std::move(sk);
  if (skb.sk->full && skb.sk != control_ && skb.sk->state != PSP_TCP_LISTEN) skb.mark = mark;
  if (!netdevs_.at(route).present) return;
  if (skb.sk->full && !run_cgroup(cgroup.out, skb, route, *skb.sk)) return;
  transmit(route, std::move(skb));
}

void Kernel::send_raw(const Segment& segment, std::uint32_t ifindex, const Raw& raw) {
  Skb skb = build(segment);
  address(skb, segment.tuple.remote);
  skb.sk = packet_socket_;
  skb.forged = true;
  skb.mark = raw.mark;
  if (raw.handle != 0) {
    psp_frame_tag tag{};
    tag.kind = PSP_FRAME_SEAL;
    wire::store_be(tag.value, raw.handle);
    std::memcpy(skb.octets.data() + 6, &tag, sizeof tag);
  }
  transmit(ifindex, std::move(skb));
}

// address writes whose netdev the packet is for: what a look-up of the neighbour gives.
void Kernel::address(Skb& skb, const Address& to) const {
  const bool own_link = !options_.boxed4;
  const bool boxed = own_link ? options_.boxed() : to == options_.boxed4 || to == options_.boxed6;
  skb.octets[kBoxedAt] = boxed;
  skb.octets[kFromBoxAt] = options_.boxed();
  skb.place = options_.place;
}

void Kernel::transmit(std::uint32_t ifindex, Skb skb) {
  const auto found = netdevs_.find(ifindex);
  if (found == netdevs_.end() || !found->second.present) return;
  const Result result = run_hook(found->second.out, skb, ifindex);
  if (result.verdict == Verdict::kDrop) return;
  if (watcher != nullptr && skb.sk && skb.sk->full) watcher->left(static_cast<Tcp&>(*skb.sk));
  if (result.verdict == Verdict::kRedirect) return redirect(result.redirect, std::move(skb));
  if (found->second.tap) return to_tap(found->second, skb);
  if (below != nullptr) return below->transmit(below->carrier, std::move(skb));
  for (Octets& packet : cut(skb)) wire_(std::move(packet), skb);
}

void Kernel::redirect(const Redirect& to, Skb skb) {
  if (!netdevs_.contains(to.ifindex)) return;
  if (to.ingress) return arrive(to.ifindex, std::move(skb));
  transmit(to.ifindex, std::move(skb));
}

void Kernel::arrive(std::uint32_t ifindex, Skb skb) {
  const auto found = netdevs_.find(ifindex);
  if (found == netdevs_.end() || !found->second.present) return;
  skb.ingress_ifindex = ifindex;
  const Result result = run_hook(found->second.in, skb, ifindex);
  if (result.verdict == Verdict::kDrop) return;
  if (result.verdict == Verdict::kRedirect) return redirect(result.redirect, std::move(skb));
  if (found->second.tap) return;
  if (!skb.other_host) return deliver(std::move(skb));
  if (above == nullptr || ifindex != carrier) return;
  skb.other_host = false;
  above->arrive(kNetdev, std::move(skb));
}

// to_tap: the queue of the TAP takes what fits, with a virtio-net header.
void Kernel::to_tap(Netdev& /*tap*/, const Skb& skb) {
  const bool sent_here = skb.ingress_ifindex == 0;
  if (sent_here && skb.place != options_.place && watcher != nullptr) watcher->crossed(skb);
  if (tap_queue.size() >= options_.tap_queue) {
    ++dropped_at_tap;
    return;
  }
  const auto ip = wire::parse_ip(std::span(skb.octets).subspan(kEthernet));
  datapath::VnetHeader vnet;
  if (skb.needs_checksum && ip) {
    vnet.flags = datapath::kVnetNeedsCsum;
    vnet.csum_start = static_cast<std::uint16_t>(kEthernet + ip->header_length);
    vnet.csum_offset = skb.gso_udp ? 6 : 16;
  }
  if (skb.gso_size != 0 && ip) {
    vnet.gso_size = skb.gso_size;
    vnet.gso_type = skb.gso_udp       ? datapath::kGsoUdpL4
                    : ip->family == 4 ? datapath::kGsoTcp4
                                      : datapath::kGsoTcp6;
  }
  Octets frame(datapath::kVnetHeader + skb.octets.size());
  datapath::store_vnet(frame.data(), vnet);
  std::ranges::copy(skb.octets, frame.begin() + datapath::kVnetHeader);
  tap_queue.push_back(std::move(frame));
  if (on_tap_frame) on_tap_frame();
}

bool Kernel::write_tap(std::uint32_t ifindex, Octets frame) {
  if (!netdevs_.contains(ifindex)) return false;
  const auto vnet = datapath::load_vnet(frame.data());
  Skb skb;
  skb.octets.assign(frame.begin() + datapath::kVnetHeader, frame.end());
  skb.gso_size = vnet.gso_type != datapath::kGsoNone ? vnet.gso_size : 0;
  skb.gso_udp = vnet.gso_type == datapath::kGsoUdpL4;
  skb.needs_checksum = skb.trusted = vnet.flags & datapath::kVnetNeedsCsum;
  skb.opened = true;
  skb.place = options_.place;
  // What comes from a TAP can carry the TAP's own socket for a part of its way.
  if (random_.chance(500'000)) skb.sk = tap_socket_;
  arrive(ifindex, std::move(skb));
  return true;
}

void Kernel::receive(Octets packet, std::uint32_t ifindex, bool forged) {
  arrived_.push_back({std::move(packet), ifindex, forged});
  if (polling_) return;
  polling_ = true;
  schedule_.after(random_.below(60 * kMicrosecond), [this] { poll(); });
}

// poll joins what has come in trains, as GRO does, and hands it up.
void Kernel::poll() {
  polling_ = false;
  const bool joins = !random_.chance(200'000) && options_.gro;
  const auto sound = [](const Octets& packet) {
    if (packet.size() <= kEthernet) return false;
    const std::span ip(packet.data() + kEthernet, packet.size() - kEthernet);
    return ip_checksum_ok(ip) && (is_psp(ip) || parse_segment(ip, true));
  };
  while (!arrived_.empty()) {
    const std::uint32_t ifindex = arrived_.front().ifindex;
    Skb skb = take_arrived();
    const auto follows = [&](const Arrived& next) {
      return next.forged == skb.forged && next.ifindex == ifindex &&
             next.packet[kBoxedAt] == skb.octets[kBoxedAt] && sound(next.packet) &&
             join_next(skb, next.packet);
    };
    if (joins && sound(skb.octets)) {
      while (!arrived_.empty() && follows(arrived_.front())) {
        arrived_.pop_front();
        skb.trusted = skb.needs_checksum = true;
      }
    }
    if (skb.octets.size() > kEthernet) arrive(ifindex, std::move(skb));
  }
}

Skb Kernel::take_arrived() {
  Skb skb;
  skb.octets = std::move(arrived_.front().packet);
  skb.forged = arrived_.front().forged;
  skb.other_host = skb.octets[kBoxedAt] != 0;
  skb.tc_index = sign;
  arrived_.pop_front();
  const std::span ip(skb.octets.data() + kEthernet, skb.octets.size() - kEthernet);
  if (is_icmp(ip)) skb.original = std::make_shared<const Octets>(skb.octets);
  return skb;
}

}  // namespace psp::sim
