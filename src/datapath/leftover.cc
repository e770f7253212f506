// SPDX-License-Identifier: Apache-2.0
#include "leftover.hh"

#include <algorithm>
#include <bpf/bpf.h>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <optional>

#include <psp/device/state_table.h>

#include "hooks.hh"
#include "host_lock.hh"
#include "sock_diag.hh"

namespace psp::datapath {
namespace {

constexpr std::size_t kMostMaps = 64, kMostPrograms = 64;  // of a program; at one place

std::vector<std::uint32_t> map_ids_of(int program) {
  bpf_prog_info info{};
  std::array<std::uint32_t, kMostMaps> ids{};
  std::uint32_t length = sizeof info;
  info.nr_map_ids = ids.size();
  info.map_ids = reinterpret_cast<std::uintptr_t>(ids.data());
  if (bpf_obj_get_info_by_fd(program, &info, &length) != 0) return {};
  return {ids.begin(), ids.begin() + std::min<std::size_t>(info.nr_map_ids, ids.size())};
}

bpf_map_info map_info(int fd) {
  bpf_map_info info{};
  std::uint32_t length = sizeof info;
  if (bpf_obj_get_info_by_fd(fd, &info, &length) != 0) return {};
  return info;
}

// for_each_map calls `visit(descriptor, info)` for the maps of a program.
template <typename Visit>
void for_each_map(int program, Visit visit) {
  for (const std::uint32_t id : map_ids_of(program))
    if (UniqueFd map(bpf_map_get_fd_by_id(id)); map) {
      const bpf_map_info info = map_info(map.get());
      visit(std::move(map), info);
    }
}

// for_each_attached calls `visit(program, cgroup)` for the programs of that name at the cgroup
// root.
template <typename Visit>
void for_each_attached(const std::string& name, bpf_attach_type type, Visit visit) {
  const UniqueFd cgroup = root_cgroup();
  std::array<std::uint32_t, kMostPrograms> ids{};
  std::uint32_t count = ids.size(), flags = 0;
  if (!cgroup || bpf_prog_query(cgroup.get(), type, 0, &flags, ids.data(), &count) != 0) return;
  for (std::uint32_t i = 0; i < count && i < ids.size(); i++) {
    const UniqueFd program(bpf_prog_get_fd_by_id(ids[i]));
    if (program && program_name(program.get()) == name) visit(program.get(), cgroup.get());
  }
}

// take puts a map where it belongs, if it is one of the shared maps.
void take(Leftover& leftover, UniqueFd map, const bpf_map_info& info) {
  const std::string name = info.name;
  SharedMaps& maps = leftover.maps;
  if (name == "psp_assoc") {
    leftover.assoc_map_id = info.id;
    maps.assoc = std::move(map);
  } else if (name == "psp_departed") {
    maps.departed = std::move(map);
  } else if (name == "psp_by_tx_spi") {
    maps.by_tx_spi = std::move(map);
  } else if (name == "psp_noted") {
    maps.noted = std::move(map);
  }
}

// is_guard: a psp_guard that this version understands.
bool is_guard(const bpf_map_info& info) {
  return std::string(info.name) == "psp_guard" && info.key_size == sizeof(psp_netdev_key) &&
         info.value_size == sizeof(psp_guard_entry);
}

// owner_lives: yes if it is not known.
bool owner_lives(int guard_map) {
  const psp_netdev_key key = {0, PSP_OWNER, 0};
  psp_guard_entry owner{};
  return bpf_map_lookup_elem(guard_map, &key, &owner) != 0 || lives(owner.epoch);
}

// guarded_netdevs are the keys of a psp_guard but for its owner's.
std::vector<device::NetdevKey> guarded_netdevs(int guard_map) {
  std::vector<device::NetdevKey> netdevs;
  psp_netdev_key key{};
  for (const psp_netdev_key* last = nullptr; bpf_map_get_next_key(guard_map, last, &key) == 0;
       last = &key)
    if (key.netns != 0) netdevs.push_back({key.netns, key.ifindex});
  return netdevs;
}

bool uses_map(int program, std::uint32_t map_id) {
  const auto ids = map_ids_of(program);
  return std::ranges::find(ids, map_id) != ids.end();
}

// find_programs finds what else of that pspd is at the cgroup root, and its maps.
void find_programs(Leftover& leftover) {
  const auto note = [&leftover](int program, int) {
    if (!uses_map(program, leftover.assoc_map_id)) return;
    leftover.programs.push_back(program_id(program));
    for_each_map(program, [&leftover](UniqueFd map, const bpf_map_info& info) {
      take(leftover, std::move(map), info);
    });
  };
  for (const auto& [name, type] : kCgroupPrograms) for_each_attached(name, type, note);
}

constexpr std::array<std::pair<Side, const char*>, 2> kNetdevPrograms = {{
    {Side::kEgress, "psp_egress"},
    {Side::kIngress, "psp_ingress"},
}};

// for_each_at calls `visit(program)` for our programs, of any pspd, at a netdev.
template <typename Visit>
void for_each_at(const Netdev& netdev, Visit visit) {
  for (const auto& [side, name] : kNetdevPrograms)
    for (const std::uint32_t id : programs_at(netdev.ifindex, side, name))
      if (const UniqueFd program(bpf_prog_get_fd_by_id(id)); program) visit(program.get());
}

}  // namespace

std::vector<Leftover> find_leftovers() {
  std::vector<Leftover> leftovers;
  for_each_attached("psp_sock_out", BPF_CGROUP_INET_EGRESS, [&leftovers](int program, int) {
    Leftover leftover;
    bool dead = false;
    for_each_map(program, [&](UniqueFd map, const bpf_map_info& info) {
      if (!is_guard(info)) return take(leftover, std::move(map), info);
      dead = !owner_lives(map.get());
      leftover.netdevs = guarded_netdevs(map.get());
    });
    find_programs(leftover);
    if (dead && leftover.maps.assoc) leftovers.push_back(std::move(leftover));
  });
  return leftovers;
}

std::optional<Leftover> find_leftover_at(const Netdev& netdev) {
  Leftover leftover;
  for_each_at(netdev, [&leftover](int program) {
    for_each_map(program, [&leftover](UniqueFd map, const bpf_map_info& info) {
      take(leftover, std::move(map), info);
    });
  });
  if (!leftover.maps.assoc) return std::nullopt;
  leftover.netdevs = {netdev.key()};
  find_programs(leftover);
  return leftover;
}

std::uint32_t read_restore(const Netdev& netdev) {
  constexpr std::size_t kAt = offsetof(psp_device_config, restore);
  std::uint32_t restore = 0;
  for_each_at(netdev, [&restore](int program) {
    for_each_map(program, [&restore](UniqueFd map, const bpf_map_info& info) {
      const std::uint32_t first = 0;
      std::vector<std::uint8_t> value(info.value_size);
      std::uint32_t bits = 0;
      if (std::string(info.name) != "psp_config" || value.size() < kAt + sizeof bits ||
          bpf_map_lookup_elem(map.get(), &first, value.data()) != 0)
        return;
      std::memcpy(&bits, value.data() + kAt, sizeof bits);
      restore |= bits;
    });
  });
  return restore;
}

void remove_from(const Netdev& netdev, const Leftover& leftover) {
  bool theirs = false;
  for_each_at(netdev, [&](int program) { theirs |= uses_map(program, leftover.assoc_map_id); });
  if (!theirs) return;
  const std::uint32_t restore = read_restore(netdev);
  for (const auto& [side, name] : kNetdevPrograms) (void)take_off(netdev.ifindex, side, name);
  if (restore & PSP_RESTORE_UDP_GRO_FORWARDING)
    (void)set_feature(netdev.name, kUdpGroForwarding, false);
  if (restore & PSP_RESTORE_CLSACT) remove_clsact(netdev.ifindex);
}

void remove_from_cgroup(const Leftover& leftover) {
  for (const auto& [name, attach_type] : kCgroupPrograms) {
    const auto detach = [&leftover, type = attach_type](int program, int cgroup) {
      if (std::ranges::find(leftover.programs, program_id(program)) != leftover.programs.end())
        bpf_prog_detach2(program, cgroup, type);
    };
    for_each_attached(name, attach_type, detach);
  }
}

namespace {

// end_here ends the secured sockets of the current namespace.
std::expected<void, std::string> end_here(int assoc_map, Ended& ended) {
  // Again until none is left: a listing can miss sockets while others come and go.
  constexpr int kRounds = 10;
  std::size_t left = 0;
  for (int round = 0; round < kRounds; round++) {
    auto sockets = secured_sockets(assoc_map);
    if (!sockets) return std::unexpected(sockets.error());
    std::erase_if(*sockets, [](const auto& socket) { return socket.assoc.state < PSP_STATE_TX; });
    left = sockets->size();
    if (left == 0) break;
    for (const SecuredSocket& socket : *sockets)
      if (destroy_socket(socket) == 0) ended.aborted.insert(socket.cookie());
  }
  ended.left += left;
  return {};
}

}  // namespace

std::expected<Ended, std::string> end_secured_sockets(int assoc_map, const NetnsTable& namespaces) {
  std::expected<Ended, std::string> ended;
  namespaces.for_each([&](const Netns& netns) {
    const InNetns inside(netns);
    if (!ended) return;
    if (!inside.entered()) {
      ended = std::unexpected("a network namespace with secured sockets cannot be entered");
      return;
    }
    if (const auto here = end_here(assoc_map, *ended); !here) ended = std::unexpected(here.error());
  });
  return ended;
}

std::expected<std::vector<Noted>, std::string> noted_sockets(int noted_map) {
  constexpr std::uint32_t kBatch = 4096;
  std::vector<Noted> noted;
  std::vector<std::uint64_t> cookies(kBatch);
  std::vector<psp_noted_entry> entries(kBatch);
  std::uint32_t position = 0, next = 0;
  const void* from = nullptr;
  for (bool more = true; more; from = &position) {
    std::uint32_t count = kBatch;
    const int result = bpf_map_lookup_batch(noted_map, const_cast<void*>(from), &next,
                                            cookies.data(), entries.data(), &count, nullptr);
    if (result != 0 && errno != ENOENT)
      return std::unexpected(
          fmt::format("the list of secured sockets cannot be read: {}", std::strerror(errno)));
    more = result == 0;
    position = next;
    for (std::uint32_t i = 0; i < count; i++)
      noted.push_back({cookies[i], entries[i].released != 0, entries[i].over != 0});
  }
  return noted;
}

std::size_t count_unseen(std::span<const Noted> noted,
                         const std::unordered_set<std::uint64_t>& aborted) {
  return static_cast<std::size_t>(std::ranges::count_if(noted, [&aborted](const Noted& socket) {
    return !socket.released && !socket.over && !aborted.contains(socket.cookie);
  }));
}

}  // namespace psp::datapath
