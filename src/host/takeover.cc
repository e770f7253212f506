// SPDX-License-Identifier: Apache-2.0
//
// Finding what concerns this pspd, ending it, letting it go; and the same for an operator that asks
// for it (--cleanup). Namespaces of a dead pspd are entered to look at their netdevs.
//
// The order is what keeps sockets silent: connections are aborted while the dead one's programs
// still stand, and only what is known to be over loses its programs. What cannot be told is an
// error, not a guess. A dead pspd is found twice, by the cgroup root and by its netdevs; the id of
// its map of associations says that it is one.
#include "takeover.hh"

#include <algorithm>
#include <cerrno>
#include <fmt/format.h>
#include <net/if.h>

#include "base/counted.hh"
#include "base/in_netns.hh"
#include "kernel/host_lock.hh"
#include "kernel/netns.hh"

namespace psp::host {
namespace {

using kernel::Leftover;
using kernel::Netdev;
using kernel::NetnsTable;

// namespaces_of are this namespace and those where the dead pspd had netdevs. One that cannot be
// found has no process, and so nobody whose sockets could be in it.
std::expected<NetnsTable, std::string> namespaces_of(const Leftover& leftover) {
  auto table = NetnsTable::open();
  if (!table) return table;
  for (const device::NetdevKey key : leftover.netdevs) {
    if (table->contains(key.netns)) continue;
    if (auto netns = kernel::find_netns(key.netns)) table->add(std::move(*netns));
  }
  return table;
}

// remove_from takes the programs of one pspd off a netdev of a namespace, if they are there.
[[nodiscard]] std::expected<void, std::string> remove_from(const kernel::Netns& netns,
                                                           std::uint32_t ifindex,
                                                           const Leftover& leftover) {
  const InNetns inside(netns);
  if (!inside.entered())
    return std::unexpected("a network namespace with an earlier pspd's netdev cannot be entered");
  const auto netdev = kernel::look_up(ifindex);
  if (!netdev) return std::unexpected(netdev.error());
  return *netdev ? kernel::remove_from(**netdev, leftover) : std::expected<void, std::string>{};
}

bool concerns(const Leftover& leftover, std::uint64_t home, std::span<const Netdev> netdevs) {
  return std::ranges::any_of(leftover.netdevs, [&](device::NetdevKey key) {
    return key.netns == home || std::ranges::any_of(netdevs, [key](const Netdev& netdev) {
             return netdev.key() == key;
           });
  });
}

// find_earlier finds what concerns a pspd of this namespace, each dead pspd once.
std::expected<std::vector<Leftover>, std::string> find_earlier(std::span<const Netdev> netdevs) {
  const auto home = kernel::Netns::current();
  if (!home) return std::unexpected(home.error());
  auto earlier = kernel::find_leftovers();
  if (!earlier) return earlier;
  std::erase_if(*earlier, [&](const Leftover& leftover) {
    return !concerns(leftover, home->cookie(), netdevs);
  });
  for (const Netdev& netdev : netdevs) {
    auto here = kernel::find_leftover_at(netdev);
    if (!here) return std::unexpected(here.error());
    if (!*here) continue;
    Leftover& found = **here;
    const auto known = std::ranges::find(*earlier, found.assoc_map_id, &Leftover::assoc_map_id);
    if (known == earlier->end())
      earlier->push_back(std::move(found));
    else if (!known->maps.by_tx_spi)
      known->maps.by_tx_spi = std::move(found.maps.by_tx_spi);
  }
  return earlier;
}

std::expected<kernel::Ended, std::string> end_sockets(const Leftover& leftover) {
  const auto namespaces = namespaces_of(leftover);
  if (!namespaces) return std::unexpected(namespaces.error());
  kernel::Ended ended;
  const auto done = kernel::end_secured_sockets(
      {leftover.maps.assoc.get(), leftover.maps.noted.get()}, *namespaces, {}, ended);
  if (!done) return std::unexpected(done.error());
  return ended;
}

// remove_socket_programs: nothing blocks a socket then. One that has begun another connection since
// they were looked at is aborted, before it sends its SYN again.
std::expected<void, std::string> remove_socket_programs(const Leftover& leftover) {
  if (auto done = kernel::remove_from_cgroup(leftover); !done) return done;
  const auto late = end_sockets(leftover);
  return late ? std::expected<void, std::string>() : std::unexpected(late.error());
}

std::expected<Taken, std::string> end_connections(Leftover leftover) {
  if (leftover.inherited) return Taken{std::move(leftover), {}, 0};
  auto ended = end_sockets(leftover);
  if (!ended) return std::unexpected(ended.error());
  if (ended->left != 0)
    return std::unexpected(fmt::format(
        "{} still open and blocked, and this kernel cannot abort what an earlier pspd secured "
        "(CONFIG_INET_DIAG_DESTROY): end the programs that have it, then start again",
        counted(ended->left, "secured connection is", "secured connections are")));
  Taken taken{std::move(leftover), std::move(ended->aborted), 0};
  if (!taken.leftover.maps.noted) return taken;
  const auto noted = kernel::noted_sockets(taken.leftover.maps.noted.get());
  if (!noted) return std::unexpected(noted.error());
  taken.unseen = kernel::count_unseen(*noted, taken.aborted);
  return taken;
}

bool clean(Leftover leftover, const Log& log) {
  const auto taken = end_connections(std::move(leftover));
  if (!taken) {
    log.error("{}", taken.error());
    return false;
  }
  if (taken->unseen != 0)
    log.warn("{} that it had secured can connect again, in clear",
             counted(taken->unseen, "disconnected socket"));
  const Leftover& left = taken->leftover;
  auto done = left.inherited ? kernel::remove_from_cgroup(left) : remove_from_netdevs(left, {});
  if (done && !left.inherited) done = remove_socket_programs(left);
  if (!done) log.error("{}", done.error());
  return done.has_value();
}

std::expected<Netdev, std::string> find_any(const std::string& name) {
  const std::uint32_t ifindex = ::if_nametoindex(name.c_str());
  auto netdev = ifindex != 0 ? kernel::look_up(ifindex) : std::optional<Netdev>();
  if (!netdev) return std::unexpected(netdev.error());
  if (!*netdev) return std::unexpected(fmt::format("there is no network device {} here", name));
  return std::move(**netdev);
}

bool clean_netdev(const std::string& name, const Log& log) {
  const auto netdev = find_any(name);  // also what can have no device any more
  const auto lock =
      netdev ? kernel::lock_netdev(netdev->key(), name) : std::unexpected(netdev.error());
  if (!lock) {
    log.error("{}", lock.error());
    return false;
  }
  auto earlier = find_earlier({&*netdev, 1});
  if (!earlier) {
    log.error("{}", earlier.error());
    return false;
  }
  if (earlier->empty()) log.info("{}: nothing left of an earlier pspd", name);
  bool all = true;
  for (Leftover& leftover : *earlier) {
    const bool done = clean(std::move(leftover), log);
    all &= done;
    if (done) log.info("{}: removed what an earlier pspd left", name);
  }
  return all;
}

bool clean_orphans(const Log& log) {
  auto orphans = kernel::find_leftovers();
  if (!orphans) {
    log.error("{}", orphans.error());
    return false;
  }
  bool all = true;
  for (Leftover& orphan : *orphans) {
    const bool done = clean(std::move(orphan), log);
    all &= done;
    if (done) log.info("removed the socket programs of a pspd that is no more");
  }
  return all;
}

}  // namespace

std::expected<void, std::string> remove_from_netdevs(const Leftover& leftover,
                                                     std::span<const device::NetdevKey> replaced) {
  const auto namespaces = namespaces_of(leftover);
  if (!namespaces) return std::unexpected(namespaces.error());
  std::expected<void, std::string> all;
  for (const device::NetdevKey key : leftover.netdevs) {
    const kernel::Netns* netns = namespaces->find(key.netns);
    if (key.ifindex == 0 || netns == nullptr || std::ranges::find(replaced, key) != replaced.end())
      continue;
    if (auto done = remove_from(*netns, key.ifindex, leftover); !done) all = done;
  }
  return all;
}

std::expected<std::vector<Taken>, std::string> take_over(std::span<const Netdev> netdevs,
                                                         const Log& log) {
  auto earlier = find_earlier(netdevs);
  if (!earlier) return std::unexpected(earlier.error());
  if (!std::ranges::all_of(*earlier, &Leftover::inherited))
    log.warn("an earlier pspd did not stop cleanly: aborting the connections that it had secured");
  std::vector<Taken> all;
  for (Leftover& leftover : *earlier) {
    auto taken = end_connections(std::move(leftover));
    if (!taken) return std::unexpected(taken.error());
    all.push_back(std::move(*taken));
  }
  return all;
}

std::expected<Takeover, std::string> take_over_later(std::span<const Netdev> netdevs,
                                                     const Log& log) {
  const auto earlier = find_earlier(netdevs);
  if (!earlier) return std::unexpected(earlier.error());
  if (earlier->empty()) return Takeover{};
  auto alone = kernel::lock_takeover(false);
  if (!alone) return std::unexpected(alone.error());
  auto taken = take_over(netdevs, log);
  if (!taken) return std::unexpected(taken.error());
  return Takeover{std::move(*alone), std::move(*taken)};
}

std::expected<void, std::string> let_go(const Taken& taken,
                                        std::span<const device::NetdevKey> replaced, bool inherited,
                                        const Log& log) {
  if (taken.leftover.inherited) return kernel::remove_from_cgroup(taken.leftover);
  if (auto done = remove_from_netdevs(taken.leftover, replaced); !done) return done;
  if (inherited) return kernel::remove_from_cgroup(taken.leftover);  // their sockets are ours now
  if (taken.unseen == 0) return remove_socket_programs(taken.leftover);
  log.warn(
      "{} blocked that an earlier pspd of another version secured, and its socket programs stay in "
      "place: 'pspd --cleanup' removes them when nobody has such a socket any more",
      counted(taken.unseen, "disconnected socket stays", "disconnected sockets stay"));
  return {};
}

int clean_up(std::span<const std::string> netdevs, const Log& log) {
  const auto alone = kernel::lock_takeover(true);
  if (!alone) {
    log.error("{}", alone.error());
    return 1;
  }
  bool all = true;
  for (const std::string& name : netdevs) all &= clean_netdev(name, log);
  all &= clean_orphans(log);
  return all ? 0 : 1;
}

}  // namespace psp::host
