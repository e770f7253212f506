// SPDX-License-Identifier: Apache-2.0
//
// A start, step by step: the takeover of what a dead pspd has left, the socket programs, the
// device, its programs, the note that lets sockets send. The order is that of host/host.cc and
// kernel/attachment.cc: compare them when these change.
#include <algorithm>
#include <cstring>
#include <set>

#include "crypto/aead.hh"
#include <psp/netlink/uapi.h>

#include "daemon_parts.hh"

namespace psp::sim {
namespace {}  // namespace

bool Daemon::step() {
  constexpr unsigned kCgroupSteps = 5, kCgroup = 3, kDevice = kCgroup + kCgroupSteps + 1;
  if (stopped_ || stopping() || serving_) return false;
  if (frozen_) return true;
  const unsigned now = next_++;
  if (now == 0) {
    take_secrets();
  } else if (now == 1) {
    take_over();
  } else if (now == 2) {
    load_sockets();
  } else if (now < kCgroup + kCgroupSteps) {
    auto& cgroup = machine_.kernel.cgroup;
    struct Step {
      std::vector<Program>& list;
      const char* name;
      int (*run)(shim_skb*);
    };
    const Step places[kCgroupSteps] = {{cgroup.out, "psp_sock_out", psp_sock_out},
                                       {cgroup.in, "psp_sock_in", psp_sock_in},
                                       {cgroup.setsockopt, "psp_setsockopt", nullptr},
                                       {cgroup.getsockopt, "psp_getsockopt", nullptr},
                                       {cgroup.release, "psp_released", nullptr}};
    const Step& place = places[now - kCgroup];
    place.list.push_back({machine_.common->next_program(), sockets_object_, place.name, place.run});
  } else if (now == kCgroup + kCgroupSteps) {
    let_go();
  } else if (now == kDevice) {
    if (machine_.kernel.netdev(Kernel::kNetdev).present)
      make_device();
    else
      --next_;  // it is waited for
  } else if (now == kDevice + 1) {
    main_->place_at_tap();
  } else if (now == kDevice + 2 || now == kDevice + 3) {
    if (!machine_.kernel.netdev(Kernel::kNetdev).present) {
      lose_device();
      return true;
    }
    main_->place_at_netdev(now == kDevice + 2);
  } else {
    guard(*main_, true);
    serve();
  }
  return true;
}

void Daemon::take_secrets() {
  Random& random = machine_.random;
  secrets_.epoch = random.next() | 1;
  secrets_.token = {random.next(), random.next()};
  secrets_.view_optname = static_cast<std::uint32_t>(random.next()) & 0x7fffffff;
  secrets_.mark = static_cast<std::uint32_t>(random.next()) | 1;
  secrets_.verified = static_cast<std::uint16_t>(random.next() | 1);
  machine_.living.insert(secrets_.epoch);
}

// dead_objects are the socket programs of pspds that hold no lock.
std::vector<std::shared_ptr<Object>> Daemon::dead_objects() const {
  std::vector<std::shared_ptr<Object>> dead;
  for (const Program& program : machine_.kernel.cgroup.out)
    if (!machine_.living.contains(program.object->values.epoch)) dead.push_back(program.object);
  return dead;
}

// end_secured is kernel::end_secured_sockets. How many nobody has seen end.
std::size_t Daemon::end_secured(Map& assoc, Map& noted) {
  std::set<std::uint64_t> aborted;
  const auto note_over = [&noted](std::uint64_t cookie) {
    if (auto* entry = static_cast<psp_noted_entry*>(noted.lookup(&cookie)))
      entry->over = PSP_OVER_BY_PSPD;
  };
  for (const auto& socket : machine_.listed()) {
    const auto* state = static_cast<const psp_sock*>(assoc.lookup(&socket->id));
    if (state == nullptr) continue;
    note_over(socket->id);
    if (state->state < PSP_STATE_TX) continue;
    aborted.insert(socket->id);
    socket->destroy();
  }
  std::size_t unseen = 0;
  for (const auto& [key, value] : noted.elements()) {
    std::uint64_t cookie;
    std::memcpy(&cookie, key.data(), sizeof cookie);
    psp_noted_entry entry;
    std::memcpy(&entry, value.get(), sizeof entry);
    unseen += !entry.released && !entry.over && !aborted.contains(cookie);
  }
  return unseen;
}

void Daemon::take_over() {
  dead_ = dead_objects();
  for (const auto& object : dead_)
    dead_unseen_ += end_secured(*object->maps[SHIM_ASSOC], *object->maps[SHIM_NOTED]);
}

void Daemon::load_sockets() {
  sockets_object_ = std::make_shared<Object>();
  shim_values& values = sockets_object_->values;
  values.epoch = secrets_.epoch;
  values.token[0] = secrets_.token[0];
  values.token[1] = secrets_.token[1];
  values.view_optname = secrets_.view_optname;
  values.mark = secrets_.mark;
  values.verified = secrets_.verified;
  values.guard_version = 1;
  auto& maps = sockets_object_->maps;
  const std::size_t most = machine_.max_secured;
  if (!dead_.empty()) {
    for (const shim_map map : {SHIM_ASSOC, SHIM_DEPARTED, SHIM_NOTED, SHIM_BY_TX_SPI})
      maps[map] = dead_.front()->maps[map];
  } else {
    maps[SHIM_ASSOC] = Map::hash(sizeof(std::uint64_t), sizeof(psp_sock), SIZE_MAX);
    maps[SHIM_DEPARTED] = Map::hash(sizeof(psp_tuple), sizeof(psp_tuple_entry), most);
    maps[SHIM_BY_TX_SPI] = Map::hash(sizeof(psp_tx_spi), sizeof(psp_tuple), most);
    maps[SHIM_NOTED] = Map::hash(sizeof(std::uint64_t), sizeof(psp_noted_entry), most);
    machine_.common->storages.push_back(maps[SHIM_ASSOC]);
  }
  maps[SHIM_DROPS] = Map::array(sizeof(std::uint64_t), PSP_DROP_MAX);
  maps[SHIM_GUARD] = Map::hash(sizeof(psp_netdev_key), sizeof(psp_guard_entry), 4096);
}

void Daemon::remove_cgroup_programs(std::uint64_t epoch) {
  Cgroup& cgroup = machine_.kernel.cgroup;
  for (auto* list :
       {&cgroup.release, &cgroup.getsockopt, &cgroup.setsockopt, &cgroup.in, &cgroup.out})
    std::erase_if(*list, [epoch](const Program& p) { return p.object->values.epoch == epoch; });
}

// let_go: the programs at the host's netdev are replaced later; those at the container's go, then
// those of the cgroup, and what was noted of the dead one's sockets is watched.
void Daemon::let_go() {
  for (const auto& object : dead_) Attachment::take_off(machine_.box, object->values.epoch);
  for (const auto& object : dead_) remove_cgroup_programs(object->values.epoch);
  const auto& maps = sockets_object_->maps;
  const Process::Inside turn(process_);
  const ScarceMemory::Plenty plenty;
  namespaces_.emplace(std::move(*kernel::NetnsTable::open()));
  kernel::SharedMaps numbers;
  numbers.assoc.reset(process_.number(maps[SHIM_ASSOC]));
  process_.storage(maps[SHIM_ASSOC]);
  numbers.departed.reset(process_.number(maps[SHIM_DEPARTED]));
  numbers.by_tx_spi.reset(process_.number(maps[SHIM_BY_TX_SPI]));
  numbers.noted.reset(process_.number(maps[SHIM_NOTED]));
  programs_.emplace(std::move(*kernel::SocketPrograms::load(secrets_, 0, &numbers)));
  // They are no descriptors of this process.
  for (auto* number : {&numbers.assoc, &numbers.departed, &numbers.by_tx_spi, &numbers.noted})
    (void)number->release();
  operations_.emplace(secrets_, *programs_, *namespaces_);
  operations_->set_any_state(machine_.compat < device::Compat::kNetNext);
  netdevs_ = std::make_unique<Netdevs>(*this);
  core_.emplace(*operations_, netdevs_.get(), device::CoreOptions{.compat = machine_.compat});
  server_.emplace(*core_, nullptr);
  core_->set_notifier(&*server_);
  const std::uint64_t home = machine_.kernel.options().netns;
  server_->set_multicast([this, home](std::uint32_t group, std::uint64_t netns, const auto&) {
    if (group == SOFTPSP_GROUP_USE && netns == home) ++rotations_told_;
  });
  asking_.emplace(*server_, home);
  departures_.emplace(
      *core_, host::Departures::Sockets{
                  .is_released = [this](std::uint64_t c) { return operations_->is_released(c); },
                  .forget = [this](std::uint64_t c) { return operations_->forget(c); }});
  for (const auto& [key, value] : maps[SHIM_NOTED]->elements()) {
    if (dead_.empty()) break;
    std::uint64_t cookie;
    std::memcpy(&cookie, key.data(), sizeof cookie);
    departures_->inherit(cookie);
  }
  dead_.clear();
  machine_.kernel.on_gone = [this](std::uint64_t cookie) {
    // News of it can be lost; then the listings are compared.
    if (machine_.random.chance(20'000)) {
      missed_ = true;
      return;
    }
    const std::weak_ptr<bool> alive = alive_;
    machine_.schedule.after(machine_.random.below(5 * kMillisecond), [this, alive, cookie] {
      const auto still = alive.lock();
      if (!still || !*still) return;
      gone_.push_back(cookie);
      if (!frozen_) hear();
    });
  };
}

Attachment::Owner Daemon::owner() {
  return {machine_.schedule, machine_.random,       *sockets_object_,
          frozen_,           machine_.udp_checksum, counted_};
}

void Daemon::make_device() {
  Random& random = machine_.random;
  device_ = std::make_unique<Device>(
      *this, device::SoftwareDriverOptions{
                 .backend = crypto::find_backend("openssl"),
                 .ivs = &ivs_,
                 .random = [&random](std::span<std::uint8_t> out) { random.fill(out); },
                 .rx_cache_entries = 16,
                 .tx_cache_entries = 16});
  const std::uint64_t netns = machine_.kernel.options().netns;
  auto& driver = device_->software.join(netns);
  id_ = core_->add_device({netns, Kernel::kNetdev}, "eth0", VersionSet::all(), *device_).value();
  operations_->bind_device(id_, device_->software);
  rotations_ = 0;
  versions_ = {};
  main_ = std::make_unique<Attachment>(owner(), machine_.kernel, driver, id_);
  set_config();
}

void Daemon::set_config() {
  for_each_attachment(
      [this](Attachment& attachment) { attachment.set_config(versions_, rotations_); });
}

void Daemon::guard(const Attachment& attachment, bool on) {
  const psp_netdev_key key{attachment.kernel().options().netns, Kernel::kNetdev, 0};
  const auto [egress, ingress] = attachment.programs();
  if (on) {
    const psp_guard_entry entry{secrets_.epoch, id_, egress, ingress, 0};
    (void)sockets_object_->maps[SHIM_GUARD]->update(&key, &entry, 0);
  } else {
    (void)sockets_object_->maps[SHIM_GUARD]->erase(&key);
  }
  ++sockets_object_->values.guard_version;
}

void Daemon::serve() {
  serving_ = true;
  const VersionSet all = VersionSet::all();
  (void)core_->set_versions(id_, all);
  if (ticking_) return;
  ticking_ = true;
  tick();
}

}  // namespace psp::sim
