// SPDX-License-Identifier: Apache-2.0
//
// What each class gives of itself is put together here, and what must hold between the parts is
// looked at before one of them is made: restored objects never meet a state that they could not
// have come to.
//
// Threading: see snapshot.hh.
#include "device/snapshot.hh"

#include <algorithm>
#include <functional>
#include <set>
#include <utility>

#include "device/sa/tx_table.hh"

namespace psp::device {
namespace {

constexpr std::uint32_t kCircle = Spi::kIndexMask;

SavedAssociation saved(const Association& association) {
  SavedAssociation out{.cookie = association.cookie,
                       .netns = association.netdev.netns,
                       .rx = association.rx,
                       .ifindex = association.netdev.ifindex,
                       .tx_spi = association.tx_spi.value_or(Spi{}).value,
                       .tx_handle = association.tx_handle,
                       .uid = association.uid};
  if (association.revoked) out.flags |= SavedAssociation::kRevoked;
  if (association.ended) out.flags |= SavedAssociation::kEnded;
  if (association.tx_spi) out.flags |= SavedAssociation::kHasTx;
  return out;
}

Association restored(const SavedAssociation& saved, bool stale) {
  Association association{.cookie = saved.cookie,
                          .rx = saved.rx,
                          .netdev = {saved.netns, saved.ifindex},
                          .stale = stale,
                          .revoked = (saved.flags & SavedAssociation::kRevoked) != 0,
                          .ended = (saved.flags & SavedAssociation::kEnded) != 0,
                          .tx_handle = saved.tx_handle,
                          .uid = saved.uid};
  if ((saved.flags & SavedAssociation::kHasTx) != 0) association.tx_spi = Spi{saved.tx_spi};
  return association;
}

void append(CoreState& state, const DeviceRecord& record) {
  const Device& device = record.device;
  SavedRecord& out = state.records.emplace_back();
  out.netns = device.netdev.netns;
  out.key_rotations = device.key_rotations;
  out.stale_events = device.stale_events;
  out.ifindex = device.netdev.ifindex;
  out.versions_cap = device.versions_cap.bits;
  out.versions_ena = device.config.versions_ena.bits;
  out.netdevs = static_cast<std::uint32_t>(device.associated.size());
  out.active = static_cast<std::uint32_t>(record.active.size());
  out.previous = static_cast<std::uint32_t>(record.previous.size());
  out.stale = static_cast<std::uint32_t>(record.stale.size());
  out.id = device.id;
  out.generation = device.generation;
  out.registered = record.registered;
  device.ifname.copy(out.ifname.data(), out.ifname.size() - 1);
  for (const NetdevKey netdev : device.associated)
    state.netdevs.push_back({.netns = netdev.netns, .ifindex = netdev.ifindex});
  for (const auto* list : {&record.active, &record.previous, &record.stale})
    for (const Association& association : *list) state.associations.push_back(saved(association));
}

bool is_version_set(std::uint32_t bits) { return VersionSet::all().contains({bits}); }

// Reader goes through the lists behind the records, each of which takes its own part.
template <typename T>
class Reader {
 public:
  explicit Reader(std::span<const T> all) : left_(all) {}
  std::span<const T> take(std::size_t count) {
    const auto taken = left_.first(std::min(count, left_.size()));
    left_ = left_.subspan(taken.size());
    return taken;
  }

 private:
  std::span<const T> left_;
};

template <typename Saved, typename Count>
bool adds_up(const std::vector<Saved>& all, std::size_t wanted, Count count) {
  std::size_t sum = 0;
  for (const Saved& one : all) sum += count(one);
  return sum == wanted;
}

std::string problem_of(const SavedRecord& record) {
  if (record.id == 0 || record.registered > 1 || record.generation > kGenerationMask)
    return "a device that cannot be";
  if (!is_version_set(record.versions_cap) || (record.versions_ena & ~record.versions_cap) != 0)
    return "versions that a device cannot have";
  if (record.ifname.back() != '\0' || record.netdevs > kAssociatedMax)
    return "netdevs that a device cannot have";
  if (record.registered == 0 &&
      (record.netdevs != 0 || record.active + record.previous + record.stale == 0))
    return "a device that has gone, and is not held";
  return {};
}

std::string problem_of(const SavedAssociation& association, const SavedRecord& record,
                       std::uint32_t age) {
  const auto now = static_cast<std::uint32_t>(record.key_rotations);
  const bool has_tx = (association.flags & SavedAssociation::kHasTx) != 0;
  if (association.rx.dev_id != record.id || association.rx.version >= kVersions ||
      (age < 2 && association.rx.rotation != now - age))
    return "an association of another device key";
  if (association.flags > 7 || (!has_tx && association.tx_spi != 0))
    return "an association that cannot be";
  return {};
}

}  // namespace

std::string problem_of(const CoreState& state) {
  if (!adds_up(state.records, state.netdevs.size(), [](const auto& r) { return r.netdevs; }) ||
      !adds_up(state.records, state.associations.size(),
               [](const auto& r) { return std::size_t{r.active} + r.previous + r.stale; }))
    return "lists that do not add up";
  if (std::ranges::adjacent_find(state.records, std::greater_equal(), &SavedRecord::id) !=
      state.records.end())
    return "two devices of one id";
  Reader<SavedNetdev> netdevs(state.netdevs);
  Reader<SavedAssociation> associations(state.associations);
  std::set<NetdevKey> taken;
  std::set<std::uint64_t> cookies;
  for (const SavedRecord& record : state.records) {
    if (auto problem = problem_of(record); !problem.empty()) return problem;
    bool free = record.registered == 0 || taken.insert({record.netns, record.ifindex}).second;
    for (const SavedNetdev& netdev : netdevs.take(record.netdevs))
      free = taken.insert({netdev.netns, netdev.ifindex}).second && free;
    if (!free) return "two devices of one netdev";
    const std::uint32_t sizes[] = {record.active, record.previous, record.stale};
    for (std::uint32_t age = 0; age < 3; ++age)
      for (const SavedAssociation& association : associations.take(sizes[age])) {
        if (auto problem = problem_of(association, record, age); !problem.empty()) return problem;
        if (!cookies.insert(association.cookie).second) return "two associations of one socket";
      }
  }
  return {};
}

namespace {

std::string problem_of(const SavedKeys& keys) {
  constexpr std::uint64_t kMaxEpoch = std::uint64_t{1} << 56;
  if (keys.phase > 1 || !is_version_set(keys.enabled) || keys.epoch == 0 || keys.epoch >= kMaxEpoch)
    return "device keys that cannot be";
  for (const SavedDeviceKey& key : keys.by_phase)
    if (key.live > 1 || key.generation > kGenerationMask || key.spis.first >= kCircle ||
        key.spis.count > kCircle || key.spis.given > key.spis.count || key.spis.before > kCircle)
      return "SPIs that cannot be";
  return {};
}

// problem_of a Tx table: each slot has a tenant or a free handle for its next one.
std::string problem_of(std::span<const SavedSlot> slots, std::span<const std::uint32_t> free) {
  std::vector<bool> taken(slots.size());
  const auto take = [&](std::uint32_t handle) {
    const std::uint32_t index = handle & TxTable::kIndexMask;
    if (handle >> TxTable::kIndexBits == 0 || index >= slots.size() || taken[index]) return false;
    taken[index] = true;
    return true;
  };
  for (std::size_t index = 0; index < slots.size(); ++index) {
    const SavedSlot& slot = slots[index];
    if (slot.sequence % 2 != 0 || slot.version >= kVersions || slot.has_boundary > 1)
      return "a Tx key that cannot be";
    if (slot.handle != 0 && ((slot.handle & TxTable::kIndexMask) != index || !take(slot.handle)))
      return "a Tx key in another's slot";
  }
  for (const std::uint32_t handle : free)
    if (!take(handle)) return "a free handle that is not free";
  if (std::ranges::find(taken, false) != taken.end()) return "a slot that nobody can have";
  return {};
}

}  // namespace

std::string problem_of(const DeviceState& state) {
  if (state.device.phase > 1 || state.device.generation > kGenerationMask ||
      !is_version_set(state.device.enabled))
    return "a software device that cannot be";
  std::size_t slots = 0, free = 0;
  for (const SavedDriver& driver : state.drivers) {
    slots += driver.slots;
    free += driver.free;
  }
  if (slots != state.slots.size() || free != state.free.size()) return "lists that do not add up";
  Reader<SavedSlot> slots_left(state.slots);
  Reader<std::uint32_t> free_left(state.free);
  const SavedDriver* before = nullptr;
  for (const SavedDriver& driver : state.drivers) {
    if (before != nullptr && before->netns >= driver.netns)
      return "two parts of a device in one network namespace";
    before = &driver;
    if (driver.keys.phase != state.device.phase || driver.slots > TxTable::kIndexMask + 1)
      return "a part of a device that cannot be";
    if (auto problem = problem_of(driver.keys); !problem.empty()) return problem;
    const auto own = slots_left.take(driver.slots);
    if (auto problem = problem_of(own, free_left.take(driver.free)); !problem.empty())
      return problem;
  }
  return {};
}

CoreState save(const Core& core) {
  CoreState state{
      .registry = core.devices().save(), .records = {}, .netdevs = {}, .associations = {}};
  core.devices().for_each_record([&](const DeviceRecord& record) { append(state, record); });
  return state;
}

std::expected<DeviceState, std::string> save(const SoftwareDevice& device) {
  auto state = device.save();
  if (!state) return std::unexpected("its device keys are not kept");
  return std::move(*state);
}

std::expected<HostState, std::string> save(const Core& core, const IvAllocator& ivs,
                                           const DeviceOf& device_of) {
  HostState state;
  state.core = save(core);
  for (const SavedRecord& record : state.core.records) {
    if (record.registered == 0) continue;
    const SoftwareDevice* device = device_of(record.id);
    if (device == nullptr)
      return std::unexpected("device " + std::to_string(record.id) + " is not of software");
    auto saved = save(*device);
    if (!saved) return std::unexpected(saved.error());
    state.devices.push_back(std::move(*saved));
  }
  state.next_iv = ivs.next();  // last: keys were used until now
  return state;
}

// The state is consistent, and each registered device has its driver.
Core::Core(SocketOps& sockets, NetdevOps* netdevs, const CoreOptions& options,
           const CoreState& state, const DriverOf& driver_of)
    : sockets_(sockets),
      netdevs_(netdevs),
      compat_(options.compat),
      devices_(options.first_id, state.registry),
      associations_(options.limits) {
  Reader<SavedNetdev> netdevs_left(state.netdevs);
  Reader<SavedAssociation> associations_left(state.associations);
  for (const SavedRecord& saved : state.records) {
    Device device{.id = saved.id,
                  .netdev = {saved.netns, saved.ifindex},
                  .ifname = saved.ifname.data(),
                  .versions_cap = {saved.versions_cap},
                  .config = {{saved.versions_ena}},
                  .generation = saved.generation,
                  .key_rotations = saved.key_rotations,
                  .stale_events = saved.stale_events};
    for (const SavedNetdev& netdev : netdevs_left.take(saved.netdevs))
      device.associated.push_back({netdev.netns, netdev.ifindex});
    if (saved.registered != 0) device.driver = driver_of(saved.id);
    Record& record = devices_.put_back(std::move(device), saved.registered != 0);
    const std::pair<std::list<Association>*, std::uint32_t> lists[] = {
        {&record.active, saved.active},
        {&record.previous, saved.previous},
        {&record.stale, saved.stale}};
    for (const auto& [list, size] : lists)
      for (const SavedAssociation& association : associations_left.take(size))
        associations_.put_back(
            record, list->insert(list->end(), restored(association, list == &record.stale)));
  }
}

std::expected<std::unique_ptr<Core>, std::string> restore(const CoreState& state,
                                                          SocketOps& sockets, NetdevOps* netdevs,
                                                          const CoreOptions& options,
                                                          const DriverOf& driver_of) {
  if (auto problem = problem_of(state); !problem.empty()) return std::unexpected(problem);
  for (const SavedRecord& record : state.records)
    if (record.registered != 0 && driver_of(record.id) == nullptr)
      return std::unexpected("device " + std::to_string(record.id) + " has no driver");
  return std::make_unique<Core>(sockets, netdevs, options, state, driver_of);
}

std::expected<std::unique_ptr<SoftwareDevice>, std::string> restore(const DeviceState& state,
                                                                    SoftwareDriverOptions options) {
  if (auto problem = problem_of(state); !problem.empty()) return std::unexpected(problem);
  return std::make_unique<SoftwareDevice>(std::move(options), state);
}

}  // namespace psp::device
