// SPDX-License-Identifier: Apache-2.0
//
// Devices come, are looked after and go. A device that goes takes its connections with it: those of
// one that is taken away are aborted first, those of a netdev that has gone are blocked. What works
// in other namespaces is in devices_netns.cc.
#include "devices.hh"

#include <algorithm>
#include <cerrno>
#include <net/if.h>
#include <thread>

#include "base/counted.hh"
#include "crypto/aead.hh"
#include "kernel/host_lock.hh"
#include "netlink/client.hh"
#include <psp/netlink/uapi.h>

namespace psp::host {
namespace {

using namespace std::chrono_literals;

// For the RSTs of connections that end with their device to reach the wire.
constexpr auto kDrain = 100ms;

constexpr std::size_t kRootsShare = 16;  // a sixteenth of the connections is for root at home

// kernel_has_device: the kernel's family has a PSP device on that netdev of this namespace.
bool kernel_has_device(unsigned ifindex) {
  auto kernel = Client::connect_kernel();
  if (!kernel) return false;
  const auto devices = kernel->devices();
  return devices && std::ranges::any_of(*devices, [&](const DeviceInfo& device) {
           return !device.by_association && device.ifindex == ifindex;
         });
}

device::CoreOptions core_options(const Settings& settings, std::uint64_t home) {
  // Sockets with an Rx key only have no note in the programs' maps.
  const std::size_t noted = settings.max_connections;
  device::CoreOptions options{.limits = {2 * noted, noted / 2, noted - noted / kRootsShare, home},
                              .compat = settings.compat};
  // Programs know a device by its number alone, whether it is the kernel's or ours.
  const auto kernel = Client::connect_kernel();
  if (kernel || kernel.error().sys_errno != ENOENT) options.first_id = SOFTPSP_FIRST_DEVICE;
  return options;
}

}  // namespace

Devices::Devices(Given given)
    : given_(std::move(given)),
      core_(given_.sockets.operations(), static_cast<device::NetdevOps*>(this),
            core_options(given_.settings, given_.sockets.namespaces().home().cookie())) {}

Devices::~Devices() = default;

kernel::HostDevice* Devices::device(std::uint16_t id) const {
  const auto found = std::ranges::find_if(all_, [id](auto& device) { return device->id() == id; });
  return found == all_.end() ? nullptr : found->get();
}

bool Devices::shares_address(const kernel::Netdev& netdev) const {
  return std::ranges::any_of(all_, [&](auto& device) { return device->shares_address(netdev); });
}

std::expected<void, std::string> Devices::check_address(const kernel::Netdev& netdev) const {
  if (!shares_address(netdev)) return {};
  return std::unexpected(fmt::format(
      "{} and a netdev that uses a PSP device have one address (an ipvlan, or a macvlan in mode "
      "passthru): what comes for one would be taken at the other",
      netdev.name));
}

std::expected<void, std::string> Devices::add(const kernel::Netdev& netdev, UniqueFd lock) {
  const auto made = make(netdev, std::move(lock));
  if (!made) return std::unexpected(made.error());
  wanted_.add(netdev.name, *made);
  return {};
}

std::expected<std::uint16_t, std::string> Devices::make(const kernel::Netdev& netdev,
                                                        UniqueFd lock) {
  SecuredSockets& sockets = given_.sockets;
  const Settings& settings = given_.settings;
  if (auto alone = check_address(netdev); !alone) return std::unexpected(alone.error());
  // Before there is anything to undo: this needs memory.
  all_.reserve(all_.size() + 1);
  const bool beside = kernel_has_device(netdev.ifindex);
  auto device = kernel::HostDevice::attach(
      {sockets.secrets(), sockets.programs(), sockets.namespaces(), sockets.operations(), core_},
      netdev, std::move(lock), given_.options);
  if (!device) return std::unexpected(device.error());
  for (const std::string& notice : (*device)->main().take_notices()) given_.log.warn("{}", notice);
  if (settings.enable.bits != 0) {
    if (auto set = core_.set_versions((*device)->id(), settings.enable); !set) {
      const auto undone = (*device)->detach();
      return std::unexpected(fmt::format(
          "{}: the versions cannot be enabled{}{}", netdev.name,
          undone ? "" : ", and what is in place already stays: ", undone ? "" : undone.error()));
    }
  }
  all_.push_back(std::move(*device));
  const kernel::HostDevice& added = *all_.back();
  given_.log.info("{}: PSP device {} with {}, {}, MTU {}", netdev.name, added.id(),
                  given_.options.driver.backend->description(), counted(settings.workers, "worker"),
                  added.netdev().mtu);
  if (beside)
    given_.log.warn(
        "{}: the kernel has a PSP device of its own there, which programs do not use while "
        "pspd serves {}",
        netdev.name, netdev.name);
  if (settings.enable.bits == 0)
    given_.log.info("{}: receive is disabled: 'pspctl dev set {} psp-versions-ena all' enables it",
                    netdev.name, netdev.name);
  return added.id();
}

// make_later gives a netdev a PSP device while others have theirs; what a dead pspd left on it is
// taken over first.
std::expected<std::uint16_t, std::string> Devices::make_later(const std::string& name) {
  const auto netdev = kernel::find_netdev(name);
  if (!netdev) return std::unexpected(netdev.error());
  auto lock = kernel::lock_netdev(netdev->key(), name);
  if (!lock) return std::unexpected(lock.error());
  if (auto alone = check_address(*netdev); !alone) return std::unexpected(alone.error());
  const auto earlier = take_over_later({&*netdev, 1}, given_.log);
  if (!earlier) return std::unexpected(earlier.error());
  const auto made = make(*netdev, std::move(*lock));
  if (!made) return made;
  for (const Taken& taken : earlier->taken)
    if (const auto gone = let_go(taken, {{netdev->key()}}, false, given_.log); !gone)
      given_.log.error("what an earlier pspd left on {} stays: {}", name, gone.error());
  return made;
}

void Devices::look_after(std::chrono::steady_clock::time_point now) {
  again_ = looked_at_.has_value();
  std::vector<std::uint16_t> gone;
  for (const auto& device : all_)
    if (!device->main().refresh()) gone.push_back(device->id());
  for (const std::uint16_t id : gone) retire(id);
  for (const auto& device : all_)
    if (!failed_.contains(device->id())) put_back(device->main(), now);
  end_failed(now);
  find_wanted(now);
}

// end_failed ends each device that can seal and open nothing any more, and no other: its netdev is
// there, and gets a new one. Connections that cannot be ended are blocked and tried again; until
// then nothing of the device is put back.
void Devices::end_failed(std::chrono::steady_clock::time_point now) {
  for (const auto& device : all_)
    if (auto why = device->main().failed()) failed_.add(device->id(), std::move(*why));
  for (const auto& [id, why] : failed_.due(now)) {
    const std::string name = device(id)->netdev().name;
    const auto aborted = end_connections(id);
    if (!aborted) {
      device(id)->silence();
      if (failed_.put_off(id, aborted.error(), now))
        given_.log.error("{}: connections through {} are blocked: {}", why, name, aborted.error());
      continue;
    }
    given_.log.error("{}: {} loses its PSP device, {} aborted", why, name,
                     counted(*aborted, "connection"));
    remove(id);
  }
}

void Devices::put_back(kernel::Attachment& attachment, std::chrono::steady_clock::time_point now) {
  for (const std::string& news : attachment.repair(now)) given_.log.warn("{}", news);
}

void Devices::find_wanted(std::chrono::steady_clock::time_point now) {
  const auto is_there = [](const std::string& name) { return ::if_nametoindex(name.c_str()) != 0; };
  const auto give = [this](const std::string& name) { return make_later(name); };
  for (const std::string& sentence : wanted_.find(now, is_there, give))
    given_.log.error("{}", sentence);
}

// retire ends a device whose netdev has gone.
void Devices::retire(std::uint16_t id) {
  const kernel::HostDevice* device = find(id);
  if (device == nullptr) return;
  given_.log.warn("{} has gone, and its PSP device with it", device->netdev().name);
  remove(id);
}

// remove takes a device away, whatever of it is left on its netdevs.
void Devices::remove(std::uint16_t id) {
  kernel::HostDevice* host = device(id);
  if (const auto done = host->detach(); !done)
    given_.log.error("{}: what is left there goes with the next device there, or when pspd stops",
                     done.error());
  for (const auto& [key, attachment] : host->associated())
    given_.log.warn("{} is not associated with {} any more", attachment->netdev().name,
                    host->netdev().name);
  const std::vector<std::string>& names = given_.settings.devices;
  const WantedNetdevs::Names wanted(names.begin(), names.end());
  core_.remove_device(id);
  std::erase_if(all_, [id](const auto& one) { return one->id() == id; });
  failed_.erase(id);
  wanted_.device_gone(id);
  wanted_.forget(wanted);  // one that it was to lose before, and kept
}

void Devices::apply(const std::vector<std::string>& devices) {
  const WantedNetdevs::Names names(devices.begin(), devices.end());
  wanted_.rename(names, [this](std::uint16_t id) {
    const kernel::HostDevice* device = find(id);
    return device != nullptr ? device->netdev().name : std::string();
  });
  for (const std::uint16_t id : wanted_.unwanted(names)) end(id);
  wanted_.forget(names);
  for (const std::string& name : names) {
    if (wanted_.contains(name)) continue;
    wanted_.add(name);
    if (::if_nametoindex(name.c_str()) == 0)
      given_.log.warn(
          "{}: there is no such network device yet: it gets its PSP device when it comes", name);
  }
}

bool Devices::set_versions(VersionSet versions) {
  std::vector<std::pair<std::uint16_t, VersionSet>> changed;
  for (const auto& device : all_) {
    const auto found = core_.devices().find(device->id());
    if (!found) continue;
    const VersionSet was = (*found)->config.versions_ena;
    if (core_.set_versions(device->id(), versions)) {
      changed.emplace_back(device->id(), was);
      continue;
    }
    bool back = true;
    for (const auto& [id, before] : changed) back &= core_.set_versions(id, before).has_value();
    given_.log.error("{}: the versions cannot be changed: {}", device->netdev().name,
                     back ? "all keep theirs" : "others have changed theirs");
    return false;
  }
  return true;
}

// end_connections aborts what a device secured, and lets that be said to the peers. Returns how
// many connections these were.
std::expected<std::size_t, std::string> Devices::end_connections(std::uint16_t id) {
  const auto ended = given_.sockets.end([&](const kernel::SecuredSocket& socket) {
    return given_.sockets.is_own(socket) && socket.assoc.rx.dev_id == id;
  });
  if (!ended) return std::unexpected(ended.error());
  if (ended->left != 0)
    return std::unexpected(counted(ended->left, "secured socket", "secured sockets") +
                           " cannot be aborted (the kernel has no CONFIG_INET_DIAG_DESTROY?)");
  if (!ended->aborted.empty()) std::this_thread::sleep_for(kDrain);
  return ended->aborted.size();
}

// end takes a device away while its netdev stays, or leaves all as it is but for connections that
// were aborted.
void Devices::end(std::uint16_t id) {
  kernel::HostDevice* host = device(id);
  if (host == nullptr) return;
  const std::string name = host->netdev().name;
  const auto aborted = end_connections(id);
  auto done = aborted ? host->detach() : std::unexpected(aborted.error());
  if (!done) {
    given_.log.error("{}: it keeps its PSP device: {}", name, done.error());
    if (const auto back = aborted ? host->resume() : std::expected<void, std::string>(); !back)
      given_.log.error("{}", back.error());
    return;
  }
  remove(id);
  given_.log.info("{}: no PSP device any more, {} aborted", name, counted(*aborted, "connection"));
}

void Devices::rotate() {
  for (const auto& device : all_)
    if (auto rotated = core_.key_rotate(device->id()); !rotated)
      given_.log.error("{}: the device key cannot be rotated: {}", device->netdev().name,
                       rotated.error().text);
}

// end_all unregisters all devices while they are there to be asked to let go of others. What fails
// is tried once more: it may be for want of memory for a moment, and nobody would do it later.
bool Devices::end_all(bool clean) {
  bool all = true;
  leave_programs_ = !clean;
  for (auto& device : all_) {
    if (!clean) device->silence();
    auto done = clean ? device->detach() : std::expected<void, std::string>{};
    if (!done) done = device->detach();
    if (!done) given_.log.error("{}", done.error());
    all &= done.has_value();
    core_.remove_device(device->id());
  }
  all_.clear();
  return all;
}

}  // namespace psp::host
