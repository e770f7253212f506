// SPDX-License-Identifier: Apache-2.0
//
// The part of the daemon that changes what it was started with: SIGHUP reads the configuration file
// again. Devices come and go; an option that a running pspd cannot change is named, and keeps its
// value until a restart.
//
// Threading: the control thread.
#include <algorithm>
#include <fmt/ranges.h>
#include <net/if.h>
#include <ranges>
#include <spdlog/spdlog.h>
#include <systemd/sd-daemon.h>
#include <thread>

#include <psp/device/state_table.h>

#include "daemon.hh"
#include "host_lock.hh"
#include "leftovers.hh"

namespace psp {
namespace {

using namespace std::chrono_literals;

// For the RSTs of connections that end with their device to reach the wire.
constexpr auto kDrain = 100ms;

}  // namespace

void Daemon::reload() {
  if (options_.config.empty()) {
    spdlog::info("there is no configuration file to read again (--config): nothing changes");
    return;
  }
  ::sd_notify(0, "RELOADING=1");
  if (const auto next = again_())
    apply(*next);
  else
    spdlog::error("{} has a mistake: nothing changes", options_.config);
  ::sd_notify(0, "READY=1");
}

void Daemon::apply(const Options& next) {
  if (const auto fixed = fixed_changes(options_, next); !fixed.empty())
    spdlog::error("only a restart changes this, so it stays as it is: {}", fmt::join(fixed, ", "));
  if (next.log_level != options_.log_level)
    spdlog::set_level(spdlog::level::from_str(next.log_level));
  if (next.rotate_interval != options_.rotate_interval) {
    if (rotate_every(next.rotate_interval))
      options_.rotate_interval = next.rotate_interval;
    else
      spdlog::error("out of memory: rotate-interval stays as it is");
  }
  const bool versions = next.enable != options_.enable;
  options_.log_level = next.log_level;
  options_.enable = next.enable;
  options_.devices = next.devices;

  const std::set<std::string> names(next.devices.begin(), next.devices.end());
  rename_wanted(names);
  for (const Wanted& wanted : wanted_)
    if (!names.contains(wanted.name) && wanted.device != 0) end_device(wanted.device);
  std::erase_if(wanted_, [&](const Wanted& wanted) {
    return wanted.device == 0 && !names.contains(wanted.name);
  });
  for (const auto& device : devices_)
    if (versions && !core_->set_versions(device->id(), options_.enable))
      spdlog::error("{}: the versions cannot be changed", device->netdev().name);
  for (const std::string& name : names) {
    if (std::ranges::find(wanted_, name, &Wanted::name) != wanted_.end()) continue;
    wanted_.push_back({.name = name});
    if (::if_nametoindex(name.c_str()) == 0)
      spdlog::warn("{}: there is no such network device yet: it gets its PSP device when it comes",
                   name);
  }
  find_wanted();
  spdlog::info("{} read again", options_.config);
}

// rename_wanted: a netdev that has a new name since, which the file has too, is still the same.
void Daemon::rename_wanted(const std::set<std::string>& names) {
  for (Wanted& wanted : wanted_) {
    const auto* device = device_by_id(wanted.device);
    if (device != nullptr && !names.contains(wanted.name) && names.contains(device->netdev().name))
      wanted.name = device->netdev().name;
  }
}

// end_device takes a device away while its netdev stays. Its connections are aborted; a socket that
// cannot be is blocked, as where a netdev has gone.
void Daemon::end_device(std::uint16_t id) {
  datapath::HostDevice* device = device_by_id(id);
  if (device == nullptr) return;
  const std::string name = device->netdev().name;
  const auto ended = datapath::end_secured_sockets(
      {programs_->assoc_map(), programs_->noted_map()}, *namespaces_,
      [&](const datapath::SecuredSocket& socket) {
        return socket.assoc.epoch == secrets_.epoch && socket.assoc.dev_id == id;
      });
  if (!ended) spdlog::error("{}: its connections are blocked: {}", name, ended.error());
  if (ended && !ended->aborted.empty()) std::this_thread::sleep_for(kDrain);
  if (const auto done = device->detach(); !done)
    return spdlog::error("{}: it keeps its PSP device", done.error());
  for (Wanted& wanted : wanted_)
    if (wanted.device == id) wanted.device = 0;
  core_->remove_device(id);
  std::erase_if(devices_, [id](const auto& one) { return one->id() == id; });
  spdlog::info("{}: no PSP device any more, {} connections aborted", name,
               ended ? ended->aborted.size() : 0);
}

// rotate_every: false, and the interval is what it was, if there is no memory for a timer.
bool Daemon::rotate_every(std::chrono::seconds interval) {
  if (interval.count() == 0) {
    rotation_ = {};
    return true;
  }
  auto timer = loop_.try_every(interval, [this] { rotate(); });
  if (timer) rotation_ = std::move(*timer);
  return timer.has_value();
}

// add_later gives a netdev a PSP device while others have theirs; what a dead pspd left on it is
// taken over first.
std::expected<std::uint16_t, std::string> Daemon::add_later(const std::string& name) {
  const auto netdev = datapath::find_netdev(name);
  if (!netdev) return std::unexpected(netdev.error());
  auto lock = datapath::lock_netdev(netdev->key(), name);
  if (!lock) return std::unexpected(lock.error());
  const auto earlier = take_over_later({&*netdev, 1});
  if (!earlier) return std::unexpected(earlier.error());
  const auto added = add_device(*netdev, std::move(*lock));
  if (!added) return added;
  for (const Taken& taken : earlier->taken)
    if (const auto gone = let_go(taken, {{netdev->key()}}, false); !gone)
      spdlog::error("what an earlier pspd left on {} stays: {}", name, gone.error());
  return added;
}

}  // namespace psp
