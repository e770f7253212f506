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

// Outcome is what a run has come to.
struct Outcome {
  std::optional<std::string> breach;
  std::uint64_t step = 0;  // at which; else how many there were
  std::uint64_t packets = 0, sealed = 0, connections = 0;
  std::uint64_t hash = 0;  // of all packets and their times
};

class World final : public Watcher {
 public:
  // Tap sees each packet at its arrival.
  using Tap = std::function<void(Time at, unsigned to, const Octets& packet, bool forged)>;

  World(const Plan& plan, Coverage& coverage, Tap tap = {});
  ~World() override;

  Outcome run();

  // Watcher.
  void judged(Tcp& socket, const Skb& skb, bool passed) override;
  void left(const Sock& socket) override;
  void taken(Tcp& socket, const Segment& segment, const Skb& skb) override;
  void path_shrank(const Kernel& kernel, const Skb& skb, std::size_t mtu) override;

 private:
  void run_until(Time end);
  void step();
  void start(unsigned host);
  void advance(unsigned host, unsigned life);
  void end(unsigned host, unsigned life);
  void kill(unsigned host);
  void fault();
  void do_fault(Feature feature, unsigned host);
  void calm();
  void check_nothing_left();
  void look();
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
  bool calm_ = false;
  std::uint64_t hash_ = 0xcbf29ce484222325u;
};

}  // namespace psp::sim
