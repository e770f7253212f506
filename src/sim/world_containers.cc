// SPDX-License-Identifier: Apache-2.0
//
// Containers come to the device of their host and end; and their root, who is an enemy of all
// others. What root does is limited to his own namespace: programs, marks and the TAP there, and
// packets that he sends by his netdev, with any addresses.
//
// He forges nothing of his own connections: that he can, and it is his affair. So whatever he makes
// is an attack on others, and for the observer forged. Chance is drawn also for what is off.
#include <algorithm>
#include <cstring>

#include "datapath/frame_tag.h"

#include "world.hh"

namespace psp::sim {
namespace {

constexpr std::uint64_t kNextNetns = 10;

int pass(shim_skb* /*skb*/) { return -1; }

}  // namespace

// look_at_containers is who runs the containers: he gives them the device when they have it not,
// and new ones come for those that have ended.
void World::look_at_containers() {
  for (unsigned host = 0; host < 2; ++host) {
    Machine& machine = *machines_[host];
    Daemon* daemon = daemons_[host].get();
    const std::uint64_t steps = random_.below(5);
    const bool cut = random_.chance(100'000) && plan_.has(Feature::k_crash) && !calm_;
    if (machine.box_ends) {
      if (machine.box.full_sockets != 0 || (daemon != nullptr && daemon->holds_box())) continue;
      machine.box.renew(machine.box.options().netns + kNextNetns);
      observer_.forget(host + 2);
      machine.box_ends = false;
      continue;
    }
    if (!plan_.has(Feature::k_containers) || daemon == nullptr) continue;
    const bool done = daemon->associate(cut ? static_cast<unsigned>(steps) : Daemon::kAll);
    if (done) coverage_.count("containers", cut ? "cut dev-assoc" : "dev-assoc");
    if (!done || !cut) continue;
    kill(host);
    schedule_.after(random_.below(2 * kSecond), [this, host] {
      if (!daemons_[host]) start(host);
    });
  }
  schedule_.after(random_.below(400 * kMillisecond), [this] { look_at_containers(); });
}

void World::end_container(unsigned host) {
  Machine& machine = *machines_[host];
  if (!plan_.has(Feature::k_containers) || machine.box_ends) return;
  machine.box_ends = true;
  workload_->end_in(host + 2);
}

void World::act_as_root(unsigned host) {
  const std::uint64_t choice = random_.below(1000);
  if (!plan_.has(Feature::k_containers) || !plan_.has(Feature::k_container_root)) return;
  if (choice < 500) return send_as_other(host);
  if (choice < 520) return change_netdev(host);
}

// send_as_other sends a segment with the addresses of the host's connections, or of those of the
// other host, by the container's netdev or to pspd.
void World::send_as_other(unsigned host) {
  const auto all = workload_->ends(random_.chance(800'000) ? host : 1 - host);
  if (all.empty()) return;
  const End& end = *all[random_.below(all.size())];
  const auto is_own = [&](const auto& own) {
    return own->place == host + 2 && own->tuple == end.tuple;
  };
  if (std::ranges::any_of(workload_->ends(host), is_own)) return;
  const auto socket = end.socket.lock();
  if (!socket) return;
  Segment segment{.tuple = end.tuple, .seq = socket->snd_nxt, .ack_seq = socket->rcv_nxt};
  segment.window = 1000;
  segment.rst = random_.chance(400'000);
  segment.syn = random_.chance(100'000);
  segment.ack = random_.chance(800'000);
  if (random_.chance(300'000)) {
    segment.payload.resize(random_.between(1, 1300));
    random_.fill(segment.payload);
  }
  coverage_.count("container root", "raw");
  if (random_.chance(300'000)) return ask_for_seal(host, segment);
  machines_[host]->box.send_raw(segment, Kernel::kNetdev, {});
}

// ask_for_seal hands a segment to pspd as the program at the netdev does, with any handle. Where
// applications take keys of others' connections, one of the container may be given such a key.
void World::ask_for_seal(unsigned host, const Segment& segment) {
  const Attachment* attachment = daemons_[host] ? daemons_[host]->attachment(true) : nullptr;
  const auto handle = static_cast<std::uint32_t>(random_.between(1, 3) << 24 | random_.below(8));
  const bool marked = random_.chance(800'000);
  if (attachment == nullptr || plan_.has(Feature::k_wrong_key)) return;
  coverage_.count("container root", "asked for a seal");
  machines_[host]->box.send_raw(segment, attachment->tap(),
                                {.mark = marked ? attachment->mark() : 0, .handle = handle});
}

// change_netdev takes programs off, or puts one before them that writes what pspd's would. Behind
// psp_ingress it would give the proof to what comes for his own sockets, which is his affair.
void World::change_netdev(unsigned host) {
  Kernel& box = machines_[host]->box;
  const Daemon* daemon = daemons_[host].get();
  const Attachment* attachment = daemon == nullptr ? nullptr : daemon->attachment(true);
  Netdev& netdev = box.netdev(Kernel::kNetdev);
  Netdev::Hook& hook = random_.chance(500'000) ? netdev.in : netdev.out;
  const std::uint64_t choice = random_.below(4);
  Program own{box.common->next_program(), std::make_shared<Object>(), kRootsProgram, pass};
  coverage_.count("container root", "changed");
  if (choice == 0) {
    hook = {};
  } else if (choice == 1 && attachment != nullptr) {
    own.mark = attachment->mark();
    own.sign = daemon->identity().verified;
    std::vector<Program>& list = box.options().tcx ? hook.tcx : hook.filters;
    list.insert(list.begin(), own);
  } else if (choice == 2 && attachment != nullptr) {
    box.mark = box.mark == 0 ? attachment->mark() : 0;
  } else if (choice == 3 && attachment != nullptr) {
    if (Netdev* tap = box.find_netdev(attachment->tap())) tap->in = tap->out = {};
  }
}

}  // namespace psp::sim
