// SPDX-License-Identifier: Apache-2.0
//
// The part of the daemon that works in other network namespaces: netdevs associated with a device
// (dev-assoc), who calls there, and how a namespace is left. pspd's sockets and TAPs in a namespace
// keep it alive, so pspd has to notice when nobody else does, and let go.
//
// Threading: the control thread. It enters a namespace for one piece of work and comes back.
#include <algorithm>
#include <cerrno>
#include <net/if.h>
#include <new>
#include <spdlog/spdlog.h>

#include "daemon.hh"
#include "host_lock.hh"
#include "leftovers.hh"

namespace psp {

using datapath::InNetns;
using datapath::Netns;
using device::fail;
using device::Field;
using device::NetdevKey;
using device::Result;

Result<std::uint64_t> Daemon::netns_of(std::uint64_t caller_netns, std::int32_t nsid) {
  const Netns* caller = namespaces_->find(caller_netns);
  if (caller == nullptr || nsid < 0) return fail(EINVAL);
  const InNetns inside(*caller);
  if (!inside.entered()) return fail(EINVAL);
  std::optional<std::uint64_t> found;
  namespaces_->for_each([&](const Netns& netns) {
    if (!found && datapath::nsid_of(netns.descriptor().get()) == nsid) found = netns.cookie();
  });
  if (found) return *found;
  auto netns = datapath::find_netns_by_id(nsid);
  if (!netns) return fail(EINVAL);
  return namespaces_->add(std::move(*netns)).cookie();
}

std::int32_t Daemon::nsid_of(std::uint64_t caller_netns, std::uint64_t netns) {
  constexpr std::int32_t kNone = -1;
  const Netns* caller = namespaces_->find(caller_netns);
  const Netns* other = namespaces_->find(netns);
  if (caller == nullptr || other == nullptr) return kNone;
  const InNetns inside(*caller);
  return inside.entered() ? datapath::give_nsid(other->descriptor().get()) : kNone;
}

Result<void> Daemon::attach(const device::Device& device, NetdevKey key) {
  datapath::HostDevice* host = device_by_id(device.id);
  const Netns* netns = namespaces_->find(key.netns);
  if (host == nullptr || netns == nullptr) return fail(ENODEV, "", Field::kIfindex);
  std::expected<datapath::Netdev, std::string> netdev;
  std::expected<UniqueFd, std::string> lock;
  std::expected<Takeover, std::string> earlier;
  {
    const InNetns inside(*netns);
    char name[IF_NAMESIZE];
    if (!inside.entered()) return fail(EPERM);
    if (::if_indextoname(key.ifindex, name) == nullptr) return fail(ENODEV, "", Field::kIfindex);
    netdev = datapath::find_netdev(key.ifindex);
    if (!netdev) {
      spdlog::error("{}", netdev.error());
      return fail(EOPNOTSUPP, "Only Ethernet devices can be associated", Field::kIfindex);
    }
    lock = datapath::lock_netdev(key, netdev->name);
    if (!lock) return fail(EBUSY, "Device already associated with a PSP device");
    earlier = take_over_later({&*netdev, 1});
    if (!earlier) {
      spdlog::error("{}", earlier.error());
      return fail(EBUSY);
    }
  }
  if (auto done = host->associate(*netdev, std::move(*lock)); !done) {
    spdlog::error("{}", done.error());
    return fail(EIO);
  }
  try {
    welcome(*host, *netdev, earlier->taken);
  } catch (const std::bad_alloc&) {  // the core forgets it
    if (const auto done = host->disassociate(key); !done) spdlog::error("{}", done.error());
    throw;
  }
  return {};
}

void Daemon::welcome(const datapath::HostDevice& host, const datapath::Netdev& netdev,
                     const std::vector<Taken>& earlier) {
  for (const Taken& taken : earlier)
    if (const auto gone = let_go(taken, {{netdev.key()}}, false); !gone)
      spdlog::error("what an earlier pspd left on {} stays: {}", netdev.name, gone.error());
  listen_in(*namespaces_->find(netdev.netns));
  spdlog::info("{}{}: associated with PSP device {} of {}", netdev.name,
               netdev.netns == namespaces_->home().cookie() ? "" : " in another namespace",
               host.id(), host.netdev().name);
}

void Daemon::detach(const device::Device& device, NetdevKey netdev) {
  datapath::HostDevice* host = device_by_id(device.id);
  if (host == nullptr || keep_programs_) return;
  if (const auto done = host->disassociate(netdev); !done) spdlog::error("{}", done.error());
}

std::expected<void, std::string> Daemon::listen_at_home() {
  auto control = ControlSocket::listen(loop_, *server_, options_.socket);
  if (!control) return std::unexpected(control.error());
  control_ = std::move(*control);
  return {};
}

// listen_in makes pspd reachable for the callers of a namespace, each of which has abstract names
// of its own. A path is the same for all that see the file.
void Daemon::listen_in(const Netns& netns) {
  const std::uint64_t cookie = netns.cookie();
  if (cookie == namespaces_->home().cookie() || listeners_.contains(cookie) ||
      !options_.socket.starts_with('@'))
    return;
  const InNetns inside(netns);
  auto control = ControlSocket::listen(loop_, *server_, options_.socket);
  if (control)
    listeners_.emplace(cookie, std::move(*control));
  else
    spdlog::warn("in an associated namespace: {}", control.error());
}

std::vector<NetdevKey> Daemon::associated_netdevs() const {
  std::vector<NetdevKey> netdevs;
  for (const auto& device : devices_)
    for (const auto& [key, attachment] : device->associated()) netdevs.push_back(key);
  return netdevs;
}

// check_associated notices associated netdevs that have gone. Whoever is root where one is can do
// to it and to its TAP what it likes: that costs only its own connections.
void Daemon::check_associated() {
  std::vector<NetdevKey> gone;
  for (const auto& device : devices_)
    for (const auto& [key, attachment] : device->associated()) {
      const bool there = attachment->refresh();
      if (there) heal(*attachment);
      const auto why = there ? attachment->failed() : "it has gone";
      if (!why) continue;
      spdlog::warn("{}, associated with {}: {}", attachment->netdev().name, device->netdev().name,
                   *why);
      gone.push_back(key);
    }
  for (const NetdevKey key : gone) core_->netdev_gone(key);
}

// is_deserted: is a namespace alive only for pspd's sake?
bool Daemon::is_deserted(const Netns& netns) const {
  const auto seen = sockets_->view(netns.socket());
  if (!seen || seen->netns_references == 0) return false;  // not known
  std::size_t ours = 1 + listeners_.count(netns.cookie());
  for (const auto& device : devices_)
    for (const auto& [key, attachment] : device->associated())
      if (key.netns == netns.cookie()) ours += attachment->references();
  return seen->netns_references <= ours;
}

void Daemon::check_namespaces() {
  std::vector<std::uint64_t> deserted;
  namespaces_->for_each([&](const Netns& netns) {
    if (netns.cookie() != namespaces_->home().cookie() && is_deserted(netns))
      deserted.push_back(netns.cookie());
  });
  for (const std::uint64_t netns : deserted) leave(netns);
}

// leave gives up a namespace that has no process and no socket of anybody else: it ends with that,
// and the keys of what was there go at once.
void Daemon::leave(std::uint64_t netns) {
  for (const NetdevKey key : associated_netdevs()) {
    if (key.netns != netns) continue;
    spdlog::info("a namespace with a netdev associated with a PSP device has ended");
    core_->netdev_gone(key);
  }
  std::vector<std::uint64_t> ended;
  core_->for_each_association([&](const device::Association& association) {
    if (association.netdev.netns == netns) ended.push_back(association.cookie);
  });
  for (const std::uint64_t cookie : ended) {
    core_->release(cookie);
    sockets_->forget(cookie);
  }
  listeners_.erase(netns);
  programs_->forget(netns);
  namespaces_->remove(netns);
}

std::expected<std::vector<datapath::SecuredSocket>, std::string> Daemon::all_sockets() const {
  std::expected<std::vector<datapath::SecuredSocket>, std::string> all;
  namespaces_->for_each([&](const Netns& netns) {
    const InNetns inside(netns);
    if (!all || !inside.entered()) return;
    auto sockets = datapath::secured_sockets(programs_->assoc_map());
    if (sockets)
      all->insert(all->end(), sockets->begin(), sockets->end());
    else
      all = std::move(sockets);
  });
  return all;
}

}  // namespace psp
