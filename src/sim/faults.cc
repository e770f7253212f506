// SPDX-License-Identifier: Apache-2.0
//
// Faults, one at a time at any moment; most mend themselves after a while. The calm mends all.
//
// A fault is what somebody else does to a host: root who deletes a filter or a TAP, a kernel that
// kills pspd, a route that changes. Which kinds come up is the plan's. When one is due, which and
// at which host is drawn whether that kind is on or not, so that taking one out leaves the others
// where they are.
#include <algorithm>
#include <array>

#include "world.hh"

namespace psp::sim {
namespace {

constexpr std::array kFaults = {
    Feature::k_rotate,  Feature::k_versions,     Feature::k_netdev, Feature::k_clsact,
    Feature::k_tcx,     Feature::k_tap_programs, Feature::k_tap,    Feature::k_crash,
    Feature::k_stop,    Feature::k_freeze,       Feature::k_clock,  Feature::k_route,
    Feature::k_foreign,
};

int pass(shim_skb* /*skb*/) { return -1; }

}  // namespace

void World::fault() {
  if (calm_) return;
  link_->act();
  if (random_.chance(100'000)) {
    const Feature feature = kFaults[random_.below(kFaults.size())];
    const auto host = static_cast<unsigned>(random_.below(2));
    if (plan_.has(feature)) {
      coverage_.count("faults", name_of(feature));
      do_fault(feature, host);
    }
  }
  schedule_.after(random_.below(40 * kMillisecond), [this] { fault(); });
}

void World::do_fault(Feature feature, unsigned host) {
  Kernel& kernel = machines_[host]->kernel;
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
      netdev.present = false;
      netdev.in = netdev.out = {};
      return later(while_, [&netdev] { netdev.present = true; });
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
      Program foreign{kernel.next_program(), std::make_shared<Object>(), "foreign", pass};
      auto& hook = random_.chance(500'000) ? netdev.in : netdev.out;
      auto& list = random_.chance(500'000) ? hook.tcx : hook.filters;
      list.insert(list.begin(), foreign);
      return;
    }
    case Feature::k_tap_programs:
      if (daemon != nullptr && daemon->identity().tap != 0) {
        kernel.netdev(daemon->identity().tap).in.tcx.clear();
        kernel.netdev(daemon->identity().tap).out.tcx.clear();
      }
      return;
    case Feature::k_tap:
    case Feature::k_crash:
      kill(host);
      return later(random_.below(2 * kSecond), [this, host] {
        if (!daemons_[host]) start(host);
      });
    case Feature::k_stop:
      return end(host, life);
    case Feature::k_freeze:
      if (daemon != nullptr) daemon->freeze(true);
      return later(while_, [this, host] {
        if (daemons_[host]) daemons_[host]->freeze(false);
      });
    case Feature::k_clock:
      kernel.clock_offset += random_.below(1000 * kSecond);
      return;
    case Feature::k_route:
      kernel.route = Kernel::kOther;
      return later(while_, [&kernel] { kernel.route = Kernel::kNetdev; });
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
    kernel.route = Kernel::kNetdev;
    kernel.netdev(Kernel::kNetdev).present = true;
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
