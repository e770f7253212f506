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

constexpr std::uint8_t kFirstBox = 11;

// options_of: a container has an address beside its host's, or the same one on a link of its own.
KernelOptions options_of(unsigned place, bool same_addresses, const Plan& plan) {
  const auto number = [&](unsigned of) {
    return static_cast<std::uint8_t>(of % 2 + (of < 2 || same_addresses ? 1 : kFirstBox));
  };
  const auto four = [&](unsigned of) { return address({10, 0, 0, number(of)}); };
  const auto six = [&](unsigned of) {
    return address({0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, number(of)});
  };
  KernelOptions options;
  options.tcx = !plan.has(Feature::k_old_kernel);
  options.tap_queue = plan.has(Feature::k_full_queue) ? 8 : 500;
  options.netns = 4711 + place;
  options.place = place;
  options.address4 = four(place);
  options.address6 = six(place);
  if (same_addresses) return options;
  options.boxed4 = four(2 + (1 - place % 2));
  options.boxed6 = six(2 + (1 - place % 2));
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
  const bool same_addresses = random_.chance(330'000);
  for (unsigned host = 0; host < 2; ++host) {
    const std::uint32_t carrier = random_.chance(330'000) ? Kernel::kOther : Kernel::kNetdev;
    machines_[host] = std::make_unique<Machine>(
        schedule_, random_.fork(), options_of(host, same_addresses, plan_),
        options_of(host + 2, same_addresses, plan_), carrier,
        [this, host](Octets packet, const Skb& skb) { send(host, std::move(packet), skb); });
    machines_[host]->max_secured = plan_.has(Feature::k_full_maps) ? 4 : 4096;
    machines_[host]->compat =
        plan_.has(Feature::k_early) ? device::Compat::kLinux72 : device::Compat::kNetNext;
    machines_[host]->faults = {
        .error = plan_.has(Feature::k_call_errors) ? 3'000u : 0u,
        .death = plan_.has(Feature::k_call_deaths) ? 1'000u : 0u,
        .memory = plan_.has(Feature::k_memory) ? 20'000u : 0u,
    };
    machines_[host]->on_death = [this, host] {
      note_fault(Feature::k_call_deaths, host);
      schedule_.after(0, [this, host, life = lives_[host]] {
        if (life == lives_[host]) crash(host);
      });
    };
    for (const unsigned place : {host, host + 2}) {
      kernel_of(place).watcher = this;
      kernel_of(place).on_ended = [this, place](std::uint64_t id) { observer_.gone(place, id); };
    }
  }
  observer_.has_egress = [this](unsigned place) {
    Kernel& kernel = kernel_of(place);
    const Netdev::Hook& out = kernel.netdev(kernel.route).out;
    const auto has = [&out](std::string_view name) {
      const auto is_it = [name](const Program& program) { return program.name == name; };
      return std::ranges::any_of(out.tcx, is_it) || std::ranges::any_of(out.filters, is_it);
    };
    return has("psp_egress") && !has(kRootsProgram);
  };
  link_ = std::make_unique<Link>(
      schedule_, random_.fork(), plan_,
      Link::Calls{.arrive =
                      [this](unsigned host, Octets packet, bool forged) {
                        Kernel& kernel = machines_[host]->kernel;
                        const bool boxed = packet[kBoxedAt] != 0;
                        kernel.receive(std::move(packet), boxed ? kernel.carrier : kernel.route,
                                       forged);
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

void World::send(unsigned host, Octets packet, const Skb& skb) {
  if (!skb.forged) observer_.sent(skb.place, packet);
  mix(packet);
  // The run ends here: that packet will not arrive, and belongs into the trace.
  if (observer_.breach() && tap_) tap_(schedule_.now(), 1 - host, packet, skb.forged);
  link_->send(host, std::move(packet), skb.forged);
}

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

void World::kill(unsigned host) {
  check_counters(host);
  daemons_[host].reset();
}

void World::check_counters(unsigned host) {
  if (!daemons_[host]) return;
  if (const auto wrong = daemons_[host]->miscounted())
    observer_.fail(fmt::format("host {}: {}", host, *wrong));
}

void World::crash(unsigned host) {
  kill(host);
  schedule_.after(random_.below(2 * kSecond), [this, host] {
    if (!daemons_[host]) start(host);
  });
}

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
        .rotations = daemon == nullptr ? 0 : daemon->identity().rotations,
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
  look_at_containers();
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
    const auto left = [&](std::size_t count, const char* what) {
      if (count != 0)
        observer_.fail(fmt::format("host {}: {} {} left when all has ended", host, count, what));
    };
    left(machines_[host]->kernel.sockets(), "sockets");
    left(machines_[host]->box.sockets(), "sockets of its container");
    Daemon* daemon = daemons_[host].get();
    if (daemon == nullptr || !daemon->serving()) {
      observer_.fail(fmt::format("host {}: pspd does not serve at the end", host));
      continue;
    }
    if (plan_.has(Feature::k_containers) && daemon->attachment(true) == nullptr)
      observer_.fail(fmt::format("host {}: its container has no device at the end", host));
    left(daemon->core().associations().size(), "associations");
    const auto& maps = daemon->object().maps;
    left(maps[SHIM_ASSOC]->size(), "elements of psp_assoc");
    left(maps[SHIM_DEPARTED]->size(), "elements of psp_departed");
    left(maps[SHIM_NOTED]->size(), "elements of psp_noted");
    left(maps[SHIM_BY_TX_SPI]->size(), "elements of psp_by_tx_spi");
    check_counters(host);
  }
}

void World::judged(Tcp& socket, const Skb& skb, bool passed) {
  const Daemon* daemon = daemons_[place_of(socket) % 2].get();
  const psp_sock* state = daemon == nullptr ? nullptr : daemon->state_of(socket);
  const bool verified =
      daemon != nullptr && skb.tc_index == daemon->identity().verified && skb.opened;
  const std::span ip(skb.octets.data() + kEthernet, skb.octets.size() - kEthernet);
  const auto segment = parse_segment(ip, false);
  if (!segment) return;
  psp_segment plain{};
  plain.payload = static_cast<psp_u32>(segment->payload.size());
  plain.syn = segment->syn;
  plain.fin = segment->fin;
  plain.urg = segment->urg;
  if (verified && place_of(socket) >= 2) coverage_.count("containers", "opened");
  const Coverage::Met met{.state = state == nullptr ? 0 : state->state,
                          .event = psp_classify(&plain, verified),
                          .passed = passed};
  coverage_.met(met, recent_faults(place_of(socket) % 2));
}

unsigned World::place_of(const Tcp& socket) {
  return static_cast<const Kernel&>(socket.network()).options().place;
}

void World::left(Tcp& socket) { observer_.left(place_of(socket), socket); }

void World::crossed(const Skb& skb) {
  observer_.fail(
      fmt::format("a packet of namespace {} goes to be sealed in another one", skb.place));
}

void World::path_shrank(const Kernel& kernel, const Skb& skb, std::size_t mtu) {
  observer_.path_shrank(kernel.options().place, skb, mtu);
}

void World::taken(Tcp& socket, const Segment& segment, const Skb& skb) {
  look();
  observer_.let_in(place_of(socket), socket, segment, skb);
}

}  // namespace psp::sim
