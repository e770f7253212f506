// SPDX-License-Identifier: Apache-2.0
//
// The part of Devices that works in other network namespaces: netdevs that are associated with a
// device (dev-assoc), and what becomes of them. Whoever is root where one is can do to it and to
// its TAP what he likes: that costs only his own connections.
#include <algorithm>
#include <cerrno>
#include <net/if.h>
#include <new>

#include "base/in_netns.hh"
#include "kernel/host_lock.hh"

#include "devices.hh"

namespace psp::host {

using device::fail;
using device::Field;
using device::NetdevKey;
using device::Result;
using kernel::Netns;

Result<std::uint64_t> Devices::netns_of(std::uint64_t caller_netns, std::int32_t nsid) {
  kernel::NetnsTable& namespaces = given_.sockets.namespaces();
  const Netns* caller = namespaces.find(caller_netns);
  if (caller == nullptr || nsid < 0) return fail(EINVAL);
  const InNetns inside(*caller);
  if (!inside.entered()) return fail(EINVAL);
  std::optional<std::uint64_t> found;
  namespaces.for_each([&](const Netns& netns) {
    if (!found && kernel::nsid_of(netns.descriptor().get()) == nsid) found = netns.cookie();
  });
  if (found) return *found;
  // About 20 ms: nobody else is answered meanwhile.
  constexpr std::size_t kLooks = 10'000;
  auto netns = kernel::find_netns_by_id(nsid, kLooks);
  if (!netns && netns.error() == kernel::NotFound::kTooMany)
    return fail(EINVAL,
                "Network namespace not found among the first 10000 processes and descriptors of "
                "this host: give it a name (ip netns attach)");
  if (!netns) return fail(EINVAL);
  return namespaces.add(std::move(*netns)).cookie();
}

std::int32_t Devices::nsid_of(std::uint64_t caller_netns, std::uint64_t netns) {
  constexpr std::int32_t kNone = -1;
  const kernel::NetnsTable& namespaces = given_.sockets.namespaces();
  const Netns* caller = namespaces.find(caller_netns);
  const Netns* other = namespaces.find(netns);
  if (caller == nullptr || other == nullptr) return kNone;
  const InNetns inside(*caller);
  return inside.entered() ? kernel::give_nsid(other->descriptor().get()) : kNone;
}

Result<void> Devices::attach(const device::Device& owner, NetdevKey key) {
  kernel::HostDevice* host = device(owner.id);
  const Netns* netns = given_.sockets.namespaces().find(key.netns);
  if (host == nullptr || netns == nullptr) return fail(ENODEV, "", Field::kIfindex);
  std::expected<kernel::Netdev, std::string> netdev;
  std::expected<UniqueFd, std::string> lock;
  std::expected<Takeover, std::string> earlier;
  {
    const InNetns inside(*netns);
    char name[IF_NAMESIZE];
    if (!inside.entered()) {
      given_.log.error("the network namespace of a netdev to be associated cannot be entered");
      return fail(EPERM);
    }
    if (::if_indextoname(key.ifindex, name) == nullptr) return fail(ENODEV, "", Field::kIfindex);
    netdev = kernel::find_netdev(key.ifindex);
    if (!netdev) {
      given_.log.error("{}", netdev.error());
      return fail(EOPNOTSUPP, "A netdev of this kind cannot be associated", Field::kIfindex);
    }
    if (shares_address(*netdev))
      return fail(EOPNOTSUPP,
                  "Shares its address with the netdev of a PSP device (ipvlan, macvlan in mode "
                  "passthru): take a macvlan in mode bridge",
                  Field::kIfindex);
    lock = kernel::lock_netdev(key, netdev->name);
    if (!lock) {
      given_.log.error("{}", lock.error());
      return fail(EBUSY, "Device already associated with a PSP device");
    }
    earlier = take_over_later({&*netdev, 1}, given_.log);
    if (!earlier) {
      given_.log.error("{}", earlier.error());
      return fail(EBUSY);
    }
  }
  if (auto done = host->associate(*netdev, std::move(*lock)); !done) {
    given_.log.error("{}", done.error());
    return fail(EIO);
  }
  try {
    welcome(*host, *netdev, earlier->taken);
  } catch (const std::bad_alloc&) {  // the core forgets it
    abandon(owner, key);
    throw;
  }
  return {};
}

void Devices::welcome(const kernel::HostDevice& host, const kernel::Netdev& netdev,
                      std::span<const Taken> earlier) {
  const kernel::NetnsTable& namespaces = given_.sockets.namespaces();
  for (const Taken& taken : earlier)
    if (const auto gone = let_go(taken, {{netdev.key()}}, false, given_.log); !gone)
      given_.log.error("what an earlier pspd left on {} stays: {}", netdev.name, gone.error());
  if (const auto found = host.associated().find(netdev.key()); found != host.associated().end())
    for (const std::string& notice : found->second->take_notices()) given_.log.warn("{}", notice);
  given_.entered(*namespaces.find(netdev.netns));
  given_.log.info("{}{}: associated with PSP device {} of {}", netdev.name,
                  netdev.netns == namespaces.home().cookie() ? "" : " in another namespace",
                  host.id(), host.netdev().name);
}

Result<void> Devices::detach(const device::Device& owner, NetdevKey netdev) {
  kernel::HostDevice* host = device(owner.id);
  if (host == nullptr) return fail(EIO);
  if (const auto done = host->disassociate(netdev); !done) {
    given_.log.error("{}: it stays associated", done.error());
    return fail(EIO, "What is on the netdev cannot be taken off");
  }
  return {};
}

void Devices::abandon(const device::Device& owner, NetdevKey netdev) {
  kernel::HostDevice* host = device(owner.id);
  if (host == nullptr || leave_programs_) return;
  if (const auto done = host->abandon(netdev); !done)
    given_.log.error("{}: what is left there goes when pspd stops", done.error());
}

// lost mends what it can, if it is to, and says why the netdev has no part in its device any more.
std::optional<std::string> Devices::lost(kernel::Attachment& attachment, bool mend,
                                         std::chrono::steady_clock::time_point now) {
  if (!attachment.refresh()) return "it has gone";
  if (mend) put_back(attachment, now);
  return attachment.failed();
}

bool Devices::look_on(std::chrono::steady_clock::time_point now) {
  constexpr std::size_t kAtOnce = 8;  // netdevs; each takes some tenths of a millisecond
  std::vector<std::pair<std::uint16_t, NetdevKey>> turn;
  std::vector<NetdevKey> gone;
  for (const auto& device : all_)
    for (const auto& [key, attachment] : device->associated())
      if (!looked_at_ || std::pair(device->id(), key) > *looked_at_)
        turn.emplace_back(device->id(), key);
  const std::size_t some = std::min(turn.size(), kAtOnce);
  std::ranges::partial_sort(turn, turn.begin() + static_cast<std::ptrdiff_t>(some));
  for (const auto& [id, key] : std::span(turn).first(some)) {
    looked_at_.emplace(id, key);  // also if there is no memory for what follows
    const kernel::HostDevice& host = *find(id);
    kernel::Attachment& attachment = *host.associated().at(key);
    if (const auto why = lost(attachment, !failed_.contains(id), now)) {
      given_.log.warn("{}, associated with {}: {}", attachment.netdev().name, host.netdev().name,
                      *why);
      gone.push_back(key);
    }
  }
  const bool round = some == turn.size();
  if (round) looked_at_.reset();
  for (const NetdevKey key : gone) core_.netdev_gone(key);
  return !round || std::exchange(again_, false);
}

std::size_t Devices::references(std::uint64_t netns) const {
  std::size_t count = 0;
  for (const auto& device : all_)
    for (const auto& [key, attachment] : device->associated())
      if (key.netns == netns) count += attachment->references();
  return count;
}

void Devices::leave(std::uint64_t netns) {
  std::vector<NetdevKey> gone;
  for (const auto& device : all_)
    for (const auto& [key, attachment] : device->associated())
      if (key.netns == netns) gone.push_back(key);
  for (const NetdevKey key : gone) {
    given_.log.info("a namespace with a netdev associated with a PSP device has ended");
    core_.netdev_gone(key);
  }
}

}  // namespace psp::host
