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
namespace {

constexpr std::uint32_t kConfig = 0;

}  // namespace

bool Daemon::step() {
  constexpr unsigned kCgroupSteps = 5, kCgroup = 3, kDevice = kCgroup + kCgroupSteps + 1;
  if (failed_ || stopped_ || stopping() || serving_) return false;
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
    place.list.push_back({machine_.kernel.next_program(), sockets_object_, place.name, place.run});
  } else if (now == kCgroup + kCgroupSteps) {
    let_go();
  } else if (now == kDevice) {
    if (machine_.kernel.netdev(Kernel::kNetdev).present)
      make_device();
    else
      --next_;  // it is waited for
  } else if (now == kDevice + 1) {
    auto& tap = machine_.kernel.netdev(tap_);
    put_first(tap.in.tcx, tap_in_);
    put_first(tap.out.tcx, tap_out_);
  } else if (now == kDevice + 2 || now == kDevice + 3) {
    const bool out = now == kDevice + 2;
    Netdev& netdev = machine_.kernel.netdev(Kernel::kNetdev);
    if (!netdev.present) {
      lose_device();
      return true;
    }
    Netdev::Hook& hook = out ? netdev.out : netdev.in;
    if (machine_.kernel.options().tcx) put_first(hook.tcx, out ? out_ : in_);
    netdev.clsact = true;
    put_first(hook.filters, out ? out_ : in_);
  } else {
    guard(Kernel::kNetdev, {out_.id, in_.id});
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
  for (const auto& socket : machine_.kernel.listed()) {
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
    machine_.kernel.keep_storage(maps[SHIM_ASSOC]);
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

void Daemon::remove_netdev_programs(std::uint64_t epoch) {
  Netdev& netdev = machine_.kernel.netdev(Kernel::kNetdev);
  for (auto* hook : {&netdev.in, &netdev.out})
    for (auto* list : {&hook->filters, &hook->tcx})
      std::erase_if(*list, [epoch](const Program& p) { return p.object->values.epoch == epoch; });
}

// let_go: the programs at the netdev are replaced later; those of the cgroup go, and what was noted
// of the dead one's sockets is watched.
void Daemon::let_go() {
  for (const auto& object : dead_) remove_cgroup_programs(object->values.epoch);
  const auto& maps = sockets_object_->maps;
  const Process::Inside turn(process_);
  const ScarceMemory::Plenty plenty;
  namespaces_.emplace(std::move(*kernel::NetnsTable::open()));
  kernel::SharedMaps numbers;
  numbers.assoc.reset(process_.number(maps[SHIM_ASSOC]));
  numbers.departed.reset(process_.number(maps[SHIM_DEPARTED]));
  numbers.by_tx_spi.reset(process_.number(maps[SHIM_BY_TX_SPI]));
  numbers.noted.reset(process_.number(maps[SHIM_NOTED]));
  programs_.emplace(std::move(*kernel::SocketPrograms::load(secrets_, 0, &numbers)));
  // They are no descriptors of this process.
  for (auto* number : {&numbers.assoc, &numbers.departed, &numbers.by_tx_spi, &numbers.noted})
    (void)number->release();
  operations_.emplace(secrets_, *programs_, *namespaces_);
  operations_->set_any_state(machine_.compat < device::Compat::kNetNext);
  core_.emplace(*operations_, nullptr, device::CoreOptions{.compat = machine_.compat});
  server_.emplace(*core_, nullptr);
  core_->set_notifier(&*server_);
  server_->set_multicast([this](std::uint32_t group, std::uint64_t /*netns*/, const auto&) {
    if (group == SOFTPSP_GROUP_USE) ++rotations_told_;
  });
  asking_.emplace(*server_, machine_.kernel.options().netns);
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

void Daemon::make_device() {
  Kernel& kernel = machine_.kernel;
  tap_ = kernel.add_tap().numbers.ifindex;
  netdev_object_ = std::make_shared<Object>();
  netdev_object_->netdev = true;
  netdev_objects_.push_back(netdev_object_);
  netdev_object_->living = std::make_shared<bool>(true);
  Random& random = machine_.random;
  device_ = std::make_unique<Device>(
      *this, device::SoftwareDriverOptions{
                 .backend = crypto::find_backend("openssl"),
                 .ivs = &ivs_,
                 .random = [&random](std::span<std::uint8_t> out) { random.fill(out); },
                 .rx_cache_entries = 16,
                 .tx_cache_entries = 16});
  auto& driver = device_->software.join(kernel.options().netns);
  engine_ = driver.make_engine();
  sink_ = std::make_unique<TapSink>(*this);
  datapath::TxOptions options;
  options.mtu = static_cast<std::uint32_t>(kernel.options().mtu);
  options.port_key = {random.next(), random.next()};
  options.udp_checksum = machine_.udp_checksum;
  options.uso = !random.chance(100'000);
  tx_ = std::make_unique<datapath::TxPath>(*engine_, *sink_, options);
  rx_ = std::make_unique<datapath::RxPath>(*engine_, *sink_,
                                           datapath::RxOptions{.mtu = options.mtu, .peers = {}});
  id_ = core_
            ->add_device({kernel.options().netns, Kernel::kNetdev}, "eth0", VersionSet::all(),
                         *device_)
            .value();
  operations_->bind_device(id_, device_->software);
  rotations_ = 0;
  versions_ = {};

  shim_values& values = netdev_object_->values;
  values = sockets_object_->values;
  values.mark = static_cast<std::uint32_t>(random.next()) | 1;
  values.netdev_ifindex = Kernel::kNetdev;
  values.tap_ifindex = tap_;
  values.dev_id = id_;
  values.netns = kernel.options().netns;
  for (const shim_map map : {SHIM_ASSOC, SHIM_DEPARTED, SHIM_NOTED, SHIM_BY_TX_SPI})
    netdev_object_->maps[map] = sockets_object_->maps[map];
  netdev_object_->maps[SHIM_DROPS] = Map::array(sizeof(std::uint64_t), PSP_DROP_MAX);
  netdev_object_->maps[SHIM_CONFIG] = Map::array(sizeof(psp_device_config), 1);
  out_ = {kernel.next_program(), netdev_object_, "psp_egress", psp_egress};
  in_ = {kernel.next_program(), netdev_object_, "psp_ingress", psp_ingress};
  tap_in_ = {kernel.next_program(), netdev_object_, "psp_tap_ingress", psp_tap_ingress};
  tap_out_ = {kernel.next_program(), netdev_object_, "psp_tap_egress", psp_tap_egress};
  set_config();
  kernel.on_tap_frame = [this] { on_frame(); };
}

void Daemon::set_config() {
  auto* config =
      static_cast<psp_device_config*>(netdev_object_->maps[SHIM_CONFIG]->lookup(&kConfig));
  config->mac[0] = 2;
  config->versions_ena = versions_.bits;
  config->rotation = rotations_;
}

// put_first puts a program first in line, in the place of one of the same name without a gap.
void Daemon::put_first(std::vector<Program>& list, const Program& program) {
  std::erase_if(list, [&](const Program& other) { return other.name == program.name; });
  list.insert(list.begin(), program);
}

void Daemon::guard(std::uint32_t ifindex, const kernel::FirstPrograms& programs) {
  const psp_netdev_key key{machine_.kernel.options().netns, ifindex, 0};
  if (programs.egress != 0) {
    const psp_guard_entry entry{secrets_.epoch, id_, programs.egress, programs.ingress, 0};
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
