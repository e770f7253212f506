// SPDX-License-Identifier: Apache-2.0
//
// World: one run. Two machines, the link, the applications, the faults, the observer; made of a
// plan, and nothing else. Then the calm: no more faults, all that can finish does, and nothing may
// be left.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "coverage.hh"
#include "daemon.hh"
#include "link.hh"
#include "observer.hh"
#include "plan.hh"
#include "workload.hh"

namespace psp::sim {

// Columns of Coverage's table: faults, and at the end that there was none.
inline constexpr std::array kCountedFaults = {
    Feature::k_rotate,  Feature::k_versions,     Feature::k_netdev,     Feature::k_clsact,
    Feature::k_tcx,     Feature::k_tap_programs, Feature::k_tap,        Feature::k_crash,
    Feature::k_stop,    Feature::k_freeze,       Feature::k_clock,      Feature::k_route,
    Feature::k_foreign, Feature::k_disassoc,     Feature::k_netns_gone, Feature::k_call_deaths,
};
inline constexpr std::size_t kFaultsCounted = kCountedFaults.size();

// Outcome is what a run has come to.
struct Outcome {
  std::optional<std::string> breach;
  std::uint64_t step = 0;  // at which; else how many there were
  std::uint64_t packets = 0, sealed = 0, connections = 0;
  std::uint64_t hash = 0;  // of all packets and their times
};

// kRootsProgram is the name of one that root of a container puts at his netdev.
inline constexpr std::string_view kRootsProgram = "root";

class World final : public Watcher {
 public:
  // Tap sees each packet at its arrival.
  using Tap = std::function<void(Time at, unsigned to, const Octets& packet, bool forged)>;

  World(const Plan& plan, Coverage& coverage, Tap tap = {});
  ~World() override;

  Outcome run();

  // Watcher.
  void judged(Tcp& socket, const Skb& skb, bool passed) override;
  void left(Tcp& socket) override;
  void crossed(const Skb& skb) override;
  void taken(Tcp& socket, const Segment& segment, const Skb& skb) override;
  void path_shrank(const Kernel& kernel, const Skb& skb, std::size_t mtu) override;

 private:
  void run_until(Time end);
  void step();
  void start(unsigned host);
  void advance(unsigned host, unsigned life);
  void end(unsigned host, unsigned life);
  void kill(unsigned host);
  void crash(unsigned host);
  void check_counters(unsigned host);
  void fault();
  void do_fault(Feature feature, unsigned host, bool boxed);
  void lose_netdev(unsigned host, bool boxed, Time time);
  void note_fault(Feature feature, unsigned host);
  std::uint32_t recent_faults(unsigned host) const;
  void calm();

  // world_containers.cc
  void look_at_containers();
  void end_container(unsigned host);
  void act_as_root(unsigned host);
  void send_as_other(unsigned host);
  void ask_for_seal(unsigned host, const Segment& segment);
  void change_netdev(unsigned host);

  void check_nothing_left();
  void look();
  Kernel& kernel_of(unsigned place) { return machines_[place % 2]->kernel_of(place); }
  static unsigned place_of(const Tcp& socket);
  void send(unsigned host, Octets packet, const Skb& skb);
  void mix(std::span<const std::uint8_t> octets);

  const Plan plan_;
  Coverage& coverage_;
  Tap tap_;
  Random random_;
  Schedule schedule_;
  Observer observer_;
  std::array<std::unique_ptr<Machine>, 2> machines_;
  std::array<std::unique_ptr<Daemon>, 2> daemons_;
  std::array<unsigned, 2> lives_{};
  std::unique_ptr<Link> link_;
  std::unique_ptr<Workload> workload_;
  std::array<std::array<Time, kFaultsCounted>, 2> last_fault_{};  // when, by host
  bool calm_ = false;
  std::uint64_t hash_ = 0xcbf29ce484222325u;
};

}  // namespace psp::sim
