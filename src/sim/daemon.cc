// SPDX-License-Identifier: Apache-2.0
//
// What a daemon does while it serves, and a stop, in the order of host/host.cc: compare them when
// that changes. The start is in daemon_start.cc.
//
// Events that are due hold `alive_` weakly: a daemon that was killed between is not called any
// more. A frozen one does nothing, but its TAP fills, as with a pspd that gets no processor. A stop
// is in steps too, since packets come between them; stop() says when it wants to be called again.
#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <new>
#include <set>

#include "crypto/aead.hh"
#include "wire/bytes.hh"

#include "daemon_parts.hh"

namespace psp::sim {
namespace {

std::uint64_t counted_drops(const Object& object) {
  std::uint64_t counted = 0;
  for (const auto& [key, value] : object.maps[SHIM_DROPS]->elements()) {
    std::uint32_t reason;
    std::uint64_t times;
    std::memcpy(&reason, key.data(), sizeof reason);
    std::memcpy(&times, value.get(), sizeof times);
    if (reason != PSP_DROP_UNCLAIMED) counted += times;  // that one goes on
  }
  return counted;
}

std::chrono::steady_clock::time_point time_point(Time now) {
  return std::chrono::steady_clock::time_point(std::chrono::nanoseconds(now));
}

}  // namespace

Daemon::Daemon(Machine& machine, unsigned life)
    : machine_(machine),
      life_(life),
      alive_(std::make_shared<bool>(true)),
      process_(machine.kernel, machine.random.fork(), machine.faults),
      ivs_([&machine] { return machine.boot_ps(); }) {}

Daemon::~Daemon() {
  *alive_ = false;
  machine_.living.erase(secrets_.epoch);
  machine_.kernel.on_gone = {};
  box_.reset();
  main_.reset();
  asking_.reset();
  server_.reset();
  core_.reset();  // before the driver that it knows
}

// die: it was killed in the middle. From now on it does nothing; somebody takes it away soon.
void Daemon::die() {
  *alive_ = false;
  serving_ = false;
  stopped_ = left_in_place_ = true;
  machine_.on_death();
}

void Daemon::hear() {
  if (!departures_ || stopped_) return;
  for (const std::uint64_t cookie : std::exchange(gone_, {})) {
    const bool heard =
        inside([&] { departures_->depart(cookie, time_point(machine_.schedule.now())); });
    if (!heard) missed_ = true;
  }
}

// lose_device: the netdev has gone, or the TAP, and its device with it. Another comes with the
// netdev.
void Daemon::lose_device() {
  constexpr unsigned kDeviceStep = 9;
  serving_ = false;
  next_ = kDeviceStep;
  for_each_attachment([this](const Attachment& attachment) { take_off(attachment); });
  main_.reset();
  {
    const Process::Inside turn(process_);
    const ScarceMemory::Plenty plenty;
    core_->remove_device(id_);
  }
  operations_->unbind_device(id_);
  stats_before_ += *device_->get_stats();
  device_.reset();
}

void Daemon::freeze(bool on) {
  frozen_ = on;
  if (on) return;
  hear();
  for_each_attachment([](Attachment& attachment) { attachment.thaw(); });
}

// tick is what host_events.cc does each second.
void Daemon::tick() {
  const std::weak_ptr<bool> alive = alive_;
  machine_.schedule.after(kSecond, [this, alive] {
    const auto still = alive.lock();
    if (still && *still && !stopped_) tick();
  });
  if (frozen_) return;
  const auto now = time_point(machine_.schedule.now());
  (void)inside([&] {
    departures_->look_again();
    while (departures_->expire(now)) {  // its turns are for others, who do not wait here
    }
  });
  if (missed_ && !stopped_) recount();
  for_each_attachment([](Attachment& attachment) { attachment.refresh(); });
  look_after();
}

// recount is what host::Recount does in some turns.
void Daemon::recount() {
  std::set<std::uint64_t> listed;
  for (const auto& socket : machine_.listed()) listed.insert(socket->id);
  const auto now = time_point(machine_.schedule.now());
  missed_ = false;
  const bool done = inside([&] {
    for (const std::uint64_t cookie : departures_->open())
      if (!listed.contains(cookie)) missed_ |= !departures_->depart_unheard(cookie, now);
  });
  missed_ |= !done;
}

// look_after puts back what somebody has taken off.
void Daemon::look_after() {
  if (!serving_ || stopping()) return;
  if (!main_->repair()) return lose_device();
  look_at_guard(*main_);
  look_after_box();
}

void Daemon::look_at_guard(const Attachment& attachment) {
  const psp_netdev_key key{attachment.kernel().options().netns, Kernel::kNetdev, 0};
  const auto [egress, ingress] = attachment.programs();
  const auto* entry =
      static_cast<const psp_guard_entry*>(sockets_object_->maps[SHIM_GUARD]->lookup(&key));
  if (entry == nullptr || entry->egress != egress || entry->ingress != ingress)
    guard(attachment, true);
}

// serve_client is a request of somebody who has that socket.
template <typename Answer, typename Ask>
ClientResult<Answer> Daemon::serve_client(const std::shared_ptr<Tcp>& socket, Ask&& ask) {
  if (!serving_ || frozen_) return client_error(ENOTCONN, "");
  ClientResult<Answer> answer = client_error(ECONNRESET, "");
  const int fd = process_.borrow(socket);
  if (!inside([&] { answer = ask(fd); })) answer = client_error(ECONNRESET, "");
  process_.give_back(fd);
  return answer;
}

ClientResult<RxAssocInfo> Daemon::rx_assoc(const std::shared_ptr<Tcp>& socket, OfDevice device,
                                           Version version) {
  return serve_client<RxAssocInfo>(socket,
                                   [&](int fd) { return asking_->rx_assoc(fd, device, version); });
}

ClientResult<void> Daemon::tx_assoc(const std::shared_ptr<Tcp>& socket, OfDevice device,
                                    Version version, Spi spi, std::span<const std::uint8_t> key) {
  return serve_client<void>(
      socket, [&](int fd) { return asking_->tx_assoc(fd, device, version, spi, key); });
}

void Daemon::rotate() {
  if (!serving_ || frozen_) return;
  (void)inside([&] { (void)asking_->key_rotate(id_); });
}

void Daemon::enable(VersionSet versions) {
  if (!serving_ || frozen_) return;
  (void)inside([&] { (void)asking_->set_versions(id_, versions); });
}

// stop: connections are aborted, their RSTs leave sealed, then the programs go. Whoever connects
// again meanwhile is looked for twice more: before and after the last program that blocks goes.
std::optional<Time> Daemon::stop() {
  if (stopped_) return std::nullopt;
  if (!serving_ && stop_ == Stop::kNot) {  // it has not got so far: as a crash
    stopped_ = true;
    left_in_place_ = true;
    return std::nullopt;
  }
  if (frozen_) return 50 * kMillisecond;
  serving_ = false;
  switch (stop_) {
    case Stop::kNot:
      stop_ = Stop::kEnding;
      [[fallthrough]];
    case Stop::kEnding:
      if (end_secured() == 0) {
        stop_ = Stop::kDrained;
        return 100 * kMillisecond;
      }
      if (patience_-- > 0) return 50 * kMillisecond;
      return leave_in_place();
    case Stop::kDrained:
      if (end_secured() != 0) return leave_in_place();
      leave_netdev();
      stop_ = Stop::kOffNetdev;
      return kMillisecond;
    case Stop::kOffNetdev:
      remove_cgroup_programs(secrets_.epoch);
      end_secured();
      stopped_ = true;
      return std::nullopt;
  }
  return std::nullopt;
}

std::optional<Time> Daemon::leave_in_place() {
  stopped_ = left_in_place_ = true;
  return std::nullopt;
}

// take_off lets nobody send first.
void Daemon::take_off(const Attachment& attachment) {
  guard(attachment, false);
  Attachment::take_off(attachment.kernel(), secrets_.epoch);
  attachment.kernel().netdev(Kernel::kNetdev).clsact = false;
}

void Daemon::leave_netdev() {
  for_each_attachment([this](const Attachment& attachment) { take_off(attachment); });
  const Process::Inside turn(process_);
  const ScarceMemory::Plenty plenty;
  core_->remove_device(id_);
}

device::DriverStats Daemon::stats() const {
  device::DriverStats all = stats_before_;
  if (device_) all += *device_->get_stats();
  return all;
}

std::optional<std::string> Daemon::miscounted() const {
  for (const auto& object : counted_.objects)
    if (const auto counted = counted_drops(*object); counted != object->dropped)
      return fmt::format("programs at the netdev have dropped {} packets and counted {}",
                         object->dropped, counted);
  if (sockets_object_)
    if (const auto counted = counted_drops(*sockets_object_); counted != sockets_object_->dropped)
      return fmt::format("programs at the cgroup have dropped {} packets and counted {}",
                         sockets_object_->dropped, counted);
  if (rotations_told_ != rotations_done_)
    return fmt::format("{} rotations, and {} were told", rotations_done_, rotations_told_);
  const device::DriverStats all = stats();
  const std::uint64_t rx = all.rx_packets + all.rx_auth_fail + all.rx_bad + all.rx_error;
  if (rx != counted_.handed_rx)
    return fmt::format("{} datagrams came and {} were counted", counted_.handed_rx, rx);
  if (all.tx_packets != counted_.sealed)
    return fmt::format("{} datagrams were sealed and {} counted", counted_.sealed, all.tx_packets);
  return std::nullopt;
}

std::uint64_t Daemon::drops(Drop reason) const {
  const auto number = static_cast<std::uint32_t>(reason);
  const auto of = [number](const Object& object) {
    return *static_cast<const std::uint64_t*>(object.maps[SHIM_DROPS]->lookup(&number));
  };
  std::uint64_t sum = sockets_object_ ? of(*sockets_object_) : 0;
  for (const auto& object : counted_.objects) sum += of(*object);
  return sum;
}

const psp_sock* Daemon::state_of(const Tcp& socket) const {
  if (!sockets_object_) return nullptr;
  return static_cast<const psp_sock*>(sockets_object_->maps[SHIM_ASSOC]->lookup(&socket.id));
}

}  // namespace psp::sim
