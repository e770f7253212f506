// SPDX-License-Identifier: Apache-2.0
//
// Faults, one at a time at any moment; most mend themselves after a while. The calm mends all.
//
// A fault is what somebody else does to a host: root who deletes a filter or a TAP, a kernel that
// kills pspd, a route that changes. Which kinds come up is the plan's. When one is due, which and
// at which host is drawn whether that kind is on or not, so that taking one out leaves the others
// where they are.
#include <algorithm>
#include <span>

#include "world.hh"

namespace psp::sim {
namespace {

// What comes by itself, one at a time; the last of those that are counted comes with calls.
constexpr std::span kFaults = std::span(kCountedFaults).first(kFaultsCounted - 1);

constexpr Time kRecently = kSecond;

int pass(shim_skb* /*skb*/) { return -1; }

// tap_of is that of the host's attachment or of its container's; null: there is none.
Netdev* tap_of(const Daemon* daemon, bool boxed) {
  const Attachment* attachment = daemon == nullptr ? nullptr : daemon->attachment(boxed);
  return attachment == nullptr ? nullptr : attachment->kernel().find_netdev(attachment->tap());
}

}  // namespace

void World::fault() {
  if (calm_) return;
  link_->act();
  act_as_root(static_cast<unsigned>(random_.below(2)));
  if (random_.chance(100'000)) {
    const Feature feature = kFaults[random_.below(kFaults.size())];
    const auto host = static_cast<unsigned>(random_.below(2));
    const bool boxed = random_.chance(300'000) && plan_.has(Feature::k_containers);
    if (plan_.has(feature)) {
      note_fault(feature, host);
      do_fault(feature, host, boxed);
    }
  }
  schedule_.after(random_.below(40 * kMillisecond), [this] { fault(); });
}

void World::note_fault(Feature feature, unsigned host) {
  coverage_.count("faults", name_of(feature));
  const auto place = std::ranges::find(kCountedFaults, feature) - kCountedFaults.begin();
  last_fault_[host][static_cast<std::size_t>(place)] = schedule_.now();
}

// recent_faults has a bit for each of the last second, or that for none.
std::uint32_t World::recent_faults(unsigned host) const {
  std::uint32_t recent = 0;
  for (std::size_t i = 0; i < kFaultsCounted; ++i)
    if (schedule_.now() - last_fault_[host][i] < kRecently) recent |= 1u << i;
  return recent != 0 ? recent : 1u << kFaultsCounted;
}

// lose_netdev: with the netdev that it lies on, a container's goes too.
void World::lose_netdev(unsigned host, bool boxed, Time time) {
  Machine& machine = *machines_[host];
  std::vector<Kernel*> kernels{boxed ? &machine.box : &machine.kernel};
  if (!boxed && machine.kernel.carrier == Kernel::kNetdev) kernels.push_back(&machine.box);
  for (Kernel* kernel : kernels) {
    Netdev& netdev = kernel->netdev(Kernel::kNetdev);
    netdev.present = false;
    netdev.in = netdev.out = {};
  }
  schedule_.after(time, [kernels] {
    for (Kernel* kernel : kernels) kernel->netdev(Kernel::kNetdev).present = true;
  });
}

void World::do_fault(Feature feature, unsigned host, bool boxed) {
  Machine& machine = *machines_[host];
  Kernel& kernel = boxed ? machine.box : machine.kernel;
  Daemon* daemon = daemons_[host].get();
  const unsigned life = lives_[host];
  const Time while_ = random_.below(3 * kSecond);
  const auto later = [&](Time delay, std::function<void()> what) {
    schedule_.after(delay, std::move(what));
  };
  Netdev& netdev = kernel.netdev(Kernel::kNetdev);
  switch (feature) {
    case Feature::k_rotate:
      if (daemon != nullptr) daemon->rotate();
      return;
    case Feature::k_versions:
      if (daemon != nullptr) daemon->enable({static_cast<std::uint32_t>(random_.below(16))});
      return later(while_, [this, host] {
        if (daemons_[host]) daemons_[host]->enable(VersionSet::all());
      });
    case Feature::k_netdev:
      return lose_netdev(host, boxed, while_);
    case Feature::k_clsact:
      netdev.clsact = false;
      netdev.in.filters.clear();
      netdev.out.filters.clear();
      if (random_.chance(300'000)) netdev.in.tcx.clear(), netdev.out.tcx.clear();
      return;
    case Feature::k_tcx:
      (random_.chance(500'000) ? netdev.in : netdev.out).tcx.clear();
      return;
    case Feature::k_foreign: {
      Program foreign{kernel.common->next_program(), std::make_shared<Object>(), "foreign", pass};
      auto& hook = random_.chance(500'000) ? netdev.in : netdev.out;
      auto& list = random_.chance(500'000) ? hook.tcx : hook.filters;
      list.insert(list.begin(), foreign);
      return;
    }
    case Feature::k_tap_programs:
      if (Netdev* tap = tap_of(daemon, boxed)) {
        tap->in.tcx.clear();
        tap->out.tcx.clear();
      }
      return;
    case Feature::k_tap:
      if (boxed) {
        if (tap_of(daemon, true) != nullptr) kernel.remove_tap(daemon->attachment(true)->tap());
        return;
      }
      [[fallthrough]];
    case Feature::k_crash:
      return crash(host);
    case Feature::k_stop:
      return end(host, life);
    case Feature::k_freeze:
      if (daemon != nullptr) daemon->freeze(true);
      return later(while_, [this, host] {
        if (daemons_[host]) daemons_[host]->freeze(false);
      });
    case Feature::k_clock:
      kernel.common->clock_offset += random_.below(1000 * kSecond);
      return;
    case Feature::k_route:
      machine.kernel.route = Kernel::kOther;
      return later(while_, [&machine] { machine.kernel.route = Kernel::kNetdev; });
    case Feature::k_disassoc:
      if (daemon != nullptr) daemon->disassociate();
      return;
    case Feature::k_netns_gone:
      return end_container(host);
    default:
      return;
  }
}

// calm puts all right, at once.
void World::calm() {
  calm_ = true;
  link_->calm();
  workload_->calm();
  for (unsigned host = 0; host < 2; ++host) {
    Kernel& kernel = machines_[host]->kernel;
    machines_[host]->faults = {};
    kernel.route = Kernel::kNetdev;
    for (const unsigned place : {host, host + 2})
      kernel_of(place).netdev(Kernel::kNetdev).present = true;
    if (!daemons_[host])
      start(host);
    else
      daemons_[host]->freeze(false);
    schedule_.after(kSecond, [this, host] {
      if (daemons_[host]) daemons_[host]->enable(VersionSet::all());
    });
  }
}

}  // namespace psp::sim
