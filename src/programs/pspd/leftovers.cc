// SPDX-License-Identifier: Apache-2.0
#include "leftovers.hh"

#include <algorithm>
#include <cerrno>
#include <fmt/format.h>
#include <net/if.h>
#include <spdlog/spdlog.h>

#include "host_lock.hh"
#include "netns.hh"

namespace psp {
namespace {

using datapath::InNetns;
using datapath::Leftover;
using datapath::Netdev;
using datapath::NetnsTable;

// namespaces_of are this namespace and those where the dead pspd had netdevs. One that cannot be
// found has no process, and so nobody whose sockets could be in it.
std::expected<NetnsTable, std::string> namespaces_of(const Leftover& leftover) {
  auto table = NetnsTable::open();
  if (!table) return table;
  for (const device::NetdevKey key : leftover.netdevs) {
    if (table->contains(key.netns)) continue;
    if (auto netns = datapath::find_netns(key.netns)) table->add(std::move(*netns));
  }
  return table;
}

// remove_from_netdevs takes the programs of one dead pspd off its netdevs but those in `keep`.
[[nodiscard]] std::expected<void, std::string> remove_from_netdevs(
    const Leftover& leftover, std::span<const device::NetdevKey> keep) {
  const auto namespaces = namespaces_of(leftover);
  if (!namespaces) return std::unexpected(namespaces.error());
  for (const device::NetdevKey key : leftover.netdevs) {
    const datapath::Netns* netns = namespaces->find(key.netns);
    if (key.ifindex == 0 || netns == nullptr || std::ranges::find(keep, key) != keep.end())
      continue;
    const InNetns inside(*netns);
    if (!inside.entered())
      return std::unexpected("a network namespace with an earlier pspd's netdev cannot be entered");
    char name[IF_NAMESIZE];
    if (::if_indextoname(key.ifindex, name) == nullptr && errno == ENXIO) continue;  // it has gone
    const auto netdev = datapath::find_netdev(key.ifindex);
    if (!netdev) return std::unexpected(netdev.error());
    if (auto done = datapath::remove_from(*netdev, leftover); !done) return done;
  }
  return {};
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
  const auto home = datapath::Netns::current();
  if (!home) return std::unexpected(home.error());
  auto earlier = datapath::find_leftovers();
  if (!earlier) return earlier;
  std::erase_if(*earlier, [&](const Leftover& leftover) {
    return !concerns(leftover, home->cookie(), netdevs);
  });
  for (const Netdev& netdev : netdevs) {
    auto here = datapath::find_leftover_at(netdev);
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

std::expected<Taken, std::string> end_connections(Leftover leftover) {
  const auto namespaces = namespaces_of(leftover);
  if (!namespaces) return std::unexpected(namespaces.error());
  auto ended = datapath::end_secured_sockets({leftover.maps.assoc.get(), leftover.maps.noted.get()},
                                             *namespaces);
  if (!ended) return std::unexpected(ended.error());
  if (ended->left != 0)
    return std::unexpected(fmt::format(
        "{} connections that an earlier pspd secured are still open and blocked, and this kernel "
        "cannot abort them (CONFIG_INET_DIAG_DESTROY): end their programs, then start again",
        ended->left));
  Taken taken{std::move(leftover), std::move(ended->aborted), 0};
  if (!taken.leftover.maps.noted) return taken;
  const auto noted = datapath::noted_sockets(taken.leftover.maps.noted.get());
  if (!noted) return std::unexpected(noted.error());
  taken.unseen = datapath::count_unseen(*noted, taken.aborted);
  return taken;
}

bool clean(Leftover leftover) {
  const auto taken = end_connections(std::move(leftover));
  if (!taken) {
    spdlog::error("{}", taken.error());
    return false;
  }
  if (taken->unseen != 0)
    spdlog::warn("{} disconnected sockets that it had secured can connect again, in clear",
                 taken->unseen);
  auto done = remove_from_netdevs(taken->leftover, {});
  if (done) done = datapath::remove_from_cgroup(taken->leftover);
  if (!done) spdlog::error("{}", done.error());
  return done.has_value();
}

bool clean_netdev(const std::string& name) {
  const auto netdev = datapath::find_netdev(name);
  const auto lock =
      netdev ? datapath::lock_netdev(netdev->key(), name) : std::unexpected(netdev.error());
  if (!lock) {
    spdlog::error("{}", lock.error());
    return false;
  }
  auto earlier = find_earlier({&*netdev, 1});
  if (!earlier) {
    spdlog::error("{}", earlier.error());
    return false;
  }
  if (earlier->empty()) spdlog::info("{}: nothing left of an earlier pspd", name);
  bool all = true;
  for (Leftover& leftover : *earlier) {
    const bool done = clean(std::move(leftover));
    all &= done;
    if (done) spdlog::info("{}: removed what an earlier pspd left", name);
  }
  return all;
}

bool clean_orphans() {
  auto orphans = datapath::find_leftovers();
  if (!orphans) {
    spdlog::error("{}", orphans.error());
    return false;
  }
  bool all = true;
  for (Leftover& orphan : *orphans) {
    const bool done = clean(std::move(orphan));
    all &= done;
    if (done) spdlog::info("removed the socket programs of a pspd that is no more");
  }
  return all;
}

}  // namespace

std::expected<std::vector<Taken>, std::string> take_over(std::span<const Netdev> netdevs) {
  auto earlier = find_earlier(netdevs);
  if (!earlier) return std::unexpected(earlier.error());
  if (!earlier->empty())
    spdlog::warn(
        "an earlier pspd did not stop cleanly: aborting the connections that it had secured");
  std::vector<Taken> all;
  for (Leftover& leftover : *earlier) {
    auto taken = end_connections(std::move(leftover));
    if (!taken) return std::unexpected(taken.error());
    all.push_back(std::move(*taken));
  }
  return all;
}

std::expected<Takeover, std::string> take_over_later(std::span<const Netdev> netdevs) {
  const auto earlier = find_earlier(netdevs);
  if (!earlier) return std::unexpected(earlier.error());
  if (earlier->empty()) return Takeover{};
  auto alone = datapath::lock_takeover(false);
  if (!alone) return std::unexpected(alone.error());
  auto taken = take_over(netdevs);
  if (!taken) return std::unexpected(taken.error());
  return Takeover{std::move(*alone), std::move(*taken)};
}

std::expected<void, std::string> let_go(const Taken& taken, std::span<const device::NetdevKey> keep,
                                        bool inherited) {
  if (auto done = remove_from_netdevs(taken.leftover, keep); !done) return done;
  if (taken.unseen == 0 || inherited) return datapath::remove_from_cgroup(taken.leftover);
  spdlog::warn(
      "{} disconnected sockets that an earlier pspd of another version secured stay blocked, and "
      "its socket programs in place: 'pspd --cleanup' removes them when their programs have ended",
      taken.unseen);
  return {};
}

int clean_up(const Options& options) {
  const auto alone = datapath::lock_takeover(true);
  if (!alone) {
    spdlog::error("{}", alone.error());
    return 1;
  }
  bool all = true;
  for (const std::string& name : options.devices) all &= clean_netdev(name);
  all &= clean_orphans();
  return all ? 0 : 1;
}

}  // namespace psp
