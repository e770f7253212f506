// SPDX-License-Identifier: Apache-2.0
//
// A container at the device of its host: dev-assoc, dev-disassoc, the look after its netdev, and
// the end of its namespace, in the order of host/devices_netns.cc and kernel/host_device.cc. The
// core is the real one; what it asks of the host is here.
//
// Beside it the members of kernel's classes that have to do with more than one namespace: the one
// that is not home is the container's.
#include "daemon_parts.hh"

namespace psp::sim {

std::vector<std::shared_ptr<Tcp>> Machine::listed() const {
  auto all = kernel.listed();
  for (auto& socket : box.listed()) all.push_back(std::move(socket));
  return all;
}

device::Result<std::uint64_t> Daemon::Netdevs::netns_of(std::uint64_t /*caller_netns*/,
                                                        std::int32_t nsid) {
  if (nsid != kBox) return device::fail(EINVAL);
  return daemon_.namespaces_->add(std::move(*kernel::Netns::of(nsid))).cookie();
}

bool Daemon::associate(unsigned steps) {
  if (!serving_ || frozen_ || box_) return false;
  steps_ = steps;
  bool done = false;
  (void)inside([&] { done = asking_->dev_assoc(id_, Kernel::kNetdev, Netdevs::kBox).has_value(); });
  return done;
}

void Daemon::disassociate() {
  if (!serving_ || frozen_ || !box_) return;
  (void)inside([&] { (void)asking_->dev_disassoc(id_, Kernel::kNetdev, Netdevs::kBox); });
}

device::Result<void> Daemon::attach_box() {
  const ScarceMemory::Plenty plenty;
  if (!machine_.box.netdev(Kernel::kNetdev).present || machine_.box_ends)
    return device::fail(ENODEV, "", device::Field::kIfindex);
  auto& driver = device_->software.join(machine_.box.options().netns);
  box_ = std::make_unique<Attachment>(owner(), machine_.box, driver, id_);
  set_config();
  if (steps_ > 0) box_->place_at_tap();
  if (steps_ > 1) box_->place_at_netdev(true);
  if (steps_ > 2) box_->place_at_netdev(false);
  if (steps_ > 3) guard(*box_, true);
  return {};
}

void Daemon::detach_box() {
  const ScarceMemory::Plenty plenty;
  if (!box_) return;
  take_off(*box_);
  box_.reset();
}

// look_after_box: an association ends with its netdev, its TAP or its namespace.
void Daemon::look_after_box() {
  const bool ends = machine_.box_ends && machine_.box.full_sockets == 0;
  if (ends) leave_box();
  if (!box_) return;
  if (box_->repair()) return look_at_guard(*box_);
  const Process::Inside turn(process_);
  const ScarceMemory::Plenty plenty;
  core_->netdev_gone({machine_.box.options().netns, Kernel::kNetdev});
}

// leave_box is Host::leave_deserted_namespaces.
void Daemon::leave_box() {
  const std::uint64_t netns = machine_.box.options().netns;
  if (!namespaces_->contains(netns)) return;
  const Process::Inside turn(process_);
  const ScarceMemory::Plenty plenty;
  core_->netdev_gone({netns, Kernel::kNetdev});
  departures_->release_all(netns, std::chrono::steady_clock::time_point(
                                      std::chrono::nanoseconds(machine_.schedule.now())));
  namespaces_->remove(netns);
}

}  // namespace psp::sim

namespace psp::kernel {

std::expected<Netns, std::string> Netns::of(int /*descriptor*/) {
  return Netns(UniqueFd(), sim::Process::current().kernel().above->options().netns);
}
const Netns& NetnsTable::add(Netns netns) {
  const std::uint64_t cookie = netns.cookie();
  return all_.try_emplace(cookie, std::move(netns)).first->second;
}
void NetnsTable::remove(std::uint64_t cookie) { all_.erase(cookie); }

}  // namespace psp::kernel
