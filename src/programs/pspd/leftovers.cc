// SPDX-License-Identifier: Apache-2.0
#include "leftovers.hh"

#include <algorithm>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "host_device.hh"
#include "netns.hh"
#include "programs.hh"

namespace psp {
namespace {

using datapath::InNetns;
using datapath::Leftover;
using datapath::Netdev;
using datapath::NetnsTable;

// namespaces_of are this namespace and those where the killed pspd had netdevs. One that cannot be
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

// remove_from takes the programs of one killed pspd off its netdevs but those in `keep`.
void remove_from(const Leftover& leftover, const NetnsTable& namespaces,
                 std::span<const device::NetdevKey> keep) {
  for (const device::NetdevKey key : leftover.netdevs) {
    const datapath::Netns* netns = namespaces.find(key.netns);
    if (key.ifindex == 0 || netns == nullptr || std::ranges::find(keep, key) != keep.end())
      continue;
    const InNetns inside(*netns);
    const auto netdev =
        inside.entered() ? datapath::find_netdev(key.ifindex) : std::unexpected(std::string());
    const auto here = netdev ? datapath::find_leftover(*netdev) : std::nullopt;
    if (!here || here->assoc_map_id != leftover.assoc_map_id) continue;
    datapath::remove_filters(*netdev, *here);
    spdlog::info("{}: removed the programs of an earlier pspd", netdev->name);
  }
}

void clean_orphans() {
  for (const Leftover& orphan : datapath::find_orphans()) {
    if (const auto namespaces = namespaces_of(orphan)) {
      (void)datapath::end_secured_sockets(orphan.assoc_map.get(), *namespaces);
      remove_from(orphan, *namespaces, {});
    }
    datapath::remove_orphan(orphan);
    spdlog::info("removed the socket programs of a pspd that is no more");
  }
}

bool clean_netdev(const std::string& name) {
  const auto netdev = datapath::find_netdev(name);
  const auto lock = netdev ? datapath::lock_netdev(*netdev) : std::unexpected(netdev.error());
  if (!lock) {
    spdlog::error("{}", lock.error());
    return false;
  }
  const auto leftover = datapath::find_leftover(*netdev);
  if (!leftover) {
    spdlog::info("{}: nothing left of an earlier pspd", name);
    return true;
  }
  if (auto done = take_over(*netdev, {}); !done) {
    spdlog::error("{}", done.error());
    return false;
  }
  datapath::remove_leftover(*netdev, *leftover, true);
  spdlog::info("{}: removed what an earlier pspd left", name);
  return true;
}

}  // namespace

std::expected<void, std::string> take_over(const Netdev& netdev,
                                           std::span<const device::NetdevKey> keep) {
  const auto leftover = datapath::find_leftover(netdev);
  if (!leftover || !leftover->assoc_map) return {};
  spdlog::warn("{}: an earlier pspd did not stop cleanly: aborting the connections it had secured",
               netdev.name);
  const auto namespaces = namespaces_of(*leftover);
  if (!namespaces) return std::unexpected(namespaces.error());
  const auto left = datapath::end_secured_sockets(leftover->assoc_map.get(), *namespaces);
  if (!left) return std::unexpected(left.error());
  if (*left != 0)
    return std::unexpected(fmt::format(
        "{}: {} connections that an earlier pspd secured are still open and blocked, and this "
        "kernel cannot abort them (CONFIG_INET_DIAG_DESTROY): end their programs, then start again",
        netdev.name, *left));
  std::vector<device::NetdevKey> keeping(keep.begin(), keep.end());
  keeping.push_back(netdev.key());
  remove_from(*leftover, *namespaces, keeping);
  return {};
}

int clean_up(const Options& options) {
  int code = 0;
  for (const std::string& name : options.devices)
    if (!clean_netdev(name)) code = 1;
  clean_orphans();
  return code;
}

}  // namespace psp
