// SPDX-License-Identifier: Apache-2.0
//
// The order of a run: faults and deeds for as many steps as the plan has, then all is put right,
// ten seconds for what finds itself, a judgement of which connections can live, two minutes for
// these to finish, an end of all others, and five minutes for what is kept for TIME_WAIT.
#include "world.hh"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>

namespace psp::sim {
namespace {

constexpr Time kBegin = 1000 * kSecond;

Address address(std::initializer_list<std::uint8_t> octets) {
  Address made;
  std::ranges::copy(octets, made.octets.begin());
  return made;
}

KernelOptions options_of(unsigned host, const Plan& plan) {
  const auto last = static_cast<std::uint8_t>(host + 1);
  KernelOptions options;
  options.tcx = !plan.has(Feature::k_old_kernel);
  options.tap_queue = plan.has(Feature::k_full_queue) ? 8 : 500;
  options.netns = 4711 + host;
  options.address4 = address({10, 0, 0, last});
  options.address6 = address({0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last});
  return options;
}

}  // namespace

World::World(const Plan& plan, Coverage& coverage, Tap tap)
    : plan_(plan),
      coverage_(coverage),
      tap_(std::move(tap)),
      random_(plan.seed),
      schedule_(kBegin),
      observer_(schedule_, coverage) {
  for (unsigned host = 0; host < 2; ++host) {
    machines_[host] = std::make_unique<Machine>(schedule_, random_.fork(), options_of(host, plan_),
                                                [this, host](Octets packet) {
                                                  observer_.sent(host, packet);
                                                  mix(packet);
                                                  link_->send(host, std::move(packet));
                                                });
    machines_[host]->max_secured = plan_.has(Feature::k_full_maps) ? 4 : 4096;
    machines_[host]->compat =
        plan_.has(Feature::k_early) ? device::Compat::kLinux72 : device::Compat::kNetNext;
    machines_[host]->kernel.watcher = this;
    machines_[host]->kernel.on_ended = [this, host](std::uint64_t id) { observer_.gone(host, id); };
  }
  observer_.has_egress = [this](unsigned host) {
    Kernel& kernel = machines_[host]->kernel;
    const Netdev::Hook& out = kernel.netdev(kernel.route).out;
    const auto is_egress = [](const Program& program) { return program.name == "psp_egress"; };
    return std::ranges::any_of(out.tcx, is_egress) || std::ranges::any_of(out.filters, is_egress);
  };
  link_ = std::make_unique<Link>(
      schedule_, random_.fork(), plan_,
      Link::Calls{.arrive =
                      [this](unsigned host, Octets packet, bool forged) {
                        Kernel& kernel = machines_[host]->kernel;
                        kernel.receive(std::move(packet), kernel.route, forged);
                      },
                  .targets = [this] { return workload_->targets(); },
                  .seen =
                      [this](unsigned to, const Octets& packet, bool forged) {
                        if (tap_) tap_(schedule_.now(), to, packet, forged);
                      }});
  workload_ = std::make_unique<Workload>(
      schedule_, random_.fork(), plan_,
      Workload::Hosts{{machines_[0].get(), machines_[1].get()},
                      [this](unsigned host) { return daemons_[host].get(); }},
      observer_, coverage_);
}

World::~World() = default;

void World::mix(std::span<const std::uint8_t> octets) {
  const auto one = [this](std::uint64_t word) { hash_ = (hash_ ^ word) * 0x100000001b3u; };
  one(schedule_.now());
  std::uint64_t word = octets.size();
  for (std::size_t i = 0; i < octets.size(); i += sizeof word) {
    one(word);
    std::memcpy(&word, octets.data() + i, std::min(sizeof word, octets.size() - i));
  }
  one(word);
}

void World::start(unsigned host) {
  const unsigned life = ++lives_[host];
  daemons_[host] = std::make_unique<Daemon>(*machines_[host], life);
  advance(host, life);
}

// advance goes through a start, a step now and then.
void World::advance(unsigned host, unsigned life) {
  Daemon* daemon = daemons_[host].get();
  if (daemon == nullptr || daemon->identity().life != life) return;
  (void)daemon->step();
  schedule_.after(daemon->serving() ? 200 * kMillisecond : random_.below(3 * kMillisecond),
                  [this, host, life] { advance(host, life); });
}

void World::kill(unsigned host) { daemons_[host].reset(); }

// end goes through a clean stop.
void World::end(unsigned host, unsigned life) {
  Daemon* daemon = daemons_[host].get();
  if (daemon == nullptr || daemon->identity().life != life) return;
  if (const auto later = daemon->stop()) {
    schedule_.after(*later, [this, host, life] { end(host, life); });
    return;
  }
  if (!daemon->left_in_place()) observer_.stopped(host, life);
  coverage_.count("stop", daemon->left_in_place() ? "left in place" : "clean");
  kill(host);
  schedule_.after(random_.below(kSecond), [this, host] {
    if (!daemons_[host]) start(host);
  });
}

void World::look() {
  for (unsigned host = 0; host < 2; ++host) {
    const Daemon* daemon = daemons_[host].get();
    observer_.hosts[host] = {
        .life = daemon == nullptr ? 0 : daemon->identity().life,
        .rotations = daemon == nullptr ? 0 : daemon->rotations(),
        .verified = daemon == nullptr ? std::uint16_t{0} : daemon->identity().verified};
    // Whoever has it has it also when that pspd is dead.
    if (daemon != nullptr && plan_.has(Feature::k_sign))
      machines_[host]->kernel.sign = daemon->identity().verified;
  }
}

void World::step() {
  schedule_.step();
  look();
}

void World::run_until(Time end) {
  while (!observer_.breach() && !schedule_.empty() && schedule_.next() <= end) step();
}

Outcome World::run() {
  start(0);
  start(1);
  run_until(kBegin + 100 * kMillisecond);
  workload_->begin();
  fault();
  while (schedule_.done() < plan_.steps && !observer_.breach()) step();
  calm();
  run_until(schedule_.now() + 10 * kSecond);
  if (!observer_.breach()) workload_->judge();
  run_until(schedule_.now() + 120 * kSecond);
  if (!observer_.breach()) workload_->complain();
  workload_->abort_all();
  run_until(schedule_.now() + 300 * kSecond);
  if (!observer_.breach()) check_nothing_left();
  return {observer_.breach(),       schedule_.done(),
          link_->packets,           observer_.sealed[0] + observer_.sealed[1],
          workload_->connections(), hash_};
}

void World::check_nothing_left() {
  for (unsigned host = 0; host < 2; ++host) {
    const Kernel& kernel = machines_[host]->kernel;
    const auto left = [&](std::size_t count, const char* what) {
      if (count != 0)
        observer_.fail(fmt::format("host {}: {} {} left when all has ended", host, count, what));
    };
    left(kernel.sockets(), "sockets");
    const Daemon* daemon = daemons_[host].get();
    if (daemon == nullptr || !daemon->serving()) {
      observer_.fail(fmt::format("host {}: pspd does not serve at the end", host));
      continue;
    }
    left(daemon->associations(), "associations");
    const auto& maps = daemon->object().maps;
    left(maps[SHIM_ASSOC]->size(), "elements of psp_assoc");
    left(maps[SHIM_DEPARTED]->size(), "elements of psp_departed");
    left(maps[SHIM_NOTED]->size(), "elements of psp_noted");
    left(maps[SHIM_BY_TX_SPI]->size(), "elements of psp_by_tx_spi");
  }
}

void World::judged(Tcp& socket, const Skb& skb, bool passed) {
  const unsigned host = &socket.network() == &machines_[0]->kernel ? 0 : 1;
  const Daemon* daemon = daemons_[host].get();
  const psp_sock* state = daemon == nullptr ? nullptr : daemon->state_of(socket);
  const bool verified =
      daemon != nullptr && skb.tc_index == daemon->identity().verified && !skb.signed_before;
  const std::span ip(skb.octets.data() + kEthernet, skb.octets.size() - kEthernet);
  const auto segment = parse_segment(ip, false);
  if (!segment) return;
  psp_segment plain{};
  plain.payload = static_cast<psp_u32>(segment->payload.size());
  plain.syn = segment->syn;
  plain.fin = segment->fin;
  plain.urg = segment->urg;
  static constexpr const char* kEvents[] = {"clear data", "clear control", "clear FIN", "PSP"};
  coverage_.count(fmt::format("{}, {}", psp_state_name(state == nullptr ? 0 : state->state),
                              kEvents[psp_classify(&plain, verified)]),
                  passed ? "passed" : "dropped");
}

void World::left(const Sock& socket) {
  observer_.left(socket.netns == machines_[0]->kernel.options().netns ? 0 : 1, socket);
}

void World::path_shrank(const Kernel& kernel, const Skb& skb, std::size_t mtu) {
  observer_.path_shrank(&kernel == &machines_[0]->kernel ? 0 : 1, skb, mtu);
}

void World::taken(Tcp& socket, const Segment& segment, const Skb& skb) {
  look();
  observer_.let_in(&socket.network() == &machines_[0]->kernel ? 0 : 1, socket, segment, skb);
}

}  // namespace psp::sim
