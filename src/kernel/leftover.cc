// SPDX-License-Identifier: Apache-2.0
//
// The search goes from the programs at the cgroup root to their maps, from psp_guard to the netdevs
// that they stand at, and from psp_assoc to the sockets. What cannot be read stops it: what is not
// known to be dead stays where it is.
//
// Threading: see leftover.hh.
#include "leftover.hh"

#include <algorithm>
#include <bpf/bpf.h>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <optional>
#include <ranges>
#include <utility>

#include "device/state_table.h"

#include "hooks.hh"
#include "host_lock.hh"
#include "neighbours.hh"
#include "sock_diag.hh"

namespace psp::kernel {
namespace {

constexpr std::size_t kMostPrograms = 64;    // at one hook
constexpr std::size_t kMostNetdevs = 65536;  // of one pspd: more than psp_guard has room for

using Done = std::expected<void, std::string>;

// for_each_map calls `visit(descriptor, info)` for the maps of a program.
template <typename Visit>
[[nodiscard]] Done for_each_map(int program, Visit visit) {
  auto maps = open_maps(program);
  if (!maps) return std::unexpected(maps.error());
  for (UniqueFd& map : *maps) {
    const auto info = map_info(map.get());
    if (!info) return std::unexpected(info.error());
    if (Done done = visit(std::move(map), *info); !done) return done;
  }
  return {};
}

// attached_at are the programs of that name at the cgroup root.
std::expected<Fds, std::string> attached_at(int cgroup, const std::string& name,
                                            bpf_attach_type type) {
  std::array<std::uint32_t, kMostPrograms> ids{};
  std::uint32_t count = ids.size(), flags = 0;
  if (bpf_prog_query(cgroup, type, 0, &flags, ids.data(), &count) != 0)
    return std::unexpected(fmt::format("the kernel does not tell what is at the root cgroup: {}",
                                       std::strerror(errno)));
  return open_programs(std::span(ids).first(std::min<std::size_t>(count, ids.size())), name);
}

std::expected<UniqueFd, std::string> cgroup_root() {
  UniqueFd root = root_cgroup();
  if (root) return root;
  return std::unexpected(
      fmt::format("cannot reach the cgroup-v2 tree (needs CONFIG_CGROUPS and CAP_SYS_ADMIN): {}",
                  std::strerror(errno)));
}

// take puts a map where it belongs, if it is one of the shared maps.
Done take(Leftover& leftover, UniqueFd map, const bpf_map_info& info) {
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
  } else if (name.ends_with(".rodata")) {
    leftover.constants_map_id = info.id;
  }
  return {};
}

// What all versions of psp_guard begin with: whose it is, the device, its psp_egress.
constexpr std::size_t kGuardPrefix = offsetof(psp_guard_entry, ingress);

// is_guard: a psp_guard that this version understands.
bool is_guard(const bpf_map_info& info) {
  return std::string(info.name) == "psp_guard" && info.key_size == sizeof(psp_netdev_key) &&
         info.value_size >= kGuardPrefix && info.value_size <= sizeof(psp_guard_entry);
}

// owner_lives: does the pspd of these programs live? One that has not said who it is does: it is
// about to, before it attaches any.
std::expected<bool, std::string> owner_lives(int guard_map) {
  const psp_netdev_key key = {0, PSP_OWNER, 0};
  psp_guard_entry owner{};
  if (bpf_map_lookup_elem(guard_map, &key, &owner) == 0) return lives(owner.epoch);
  if (errno == ENOENT) return true;
  return std::unexpected(fmt::format("an earlier pspd's programs do not tell whose they are: {}",
                                     std::strerror(errno)));
}

// guarded_netdevs are the keys of a psp_guard but for its owner's.
std::expected<std::vector<device::NetdevKey>, std::string> guarded_netdevs(int guard_map) {
  std::vector<device::NetdevKey> netdevs;
  psp_netdev_key key{};
  const psp_netdev_key* last = nullptr;
  for (std::size_t i = 0; i < kMostNetdevs; i++, last = &key) {
    if (bpf_map_get_next_key(guard_map, last, &key) != 0) {
      if (errno == ENOENT) return netdevs;
      break;
    }
    if (key.netns != 0) netdevs.push_back({key.netns, key.ifindex});
  }
  return std::unexpected(
      fmt::format("the netdevs of an earlier pspd cannot be told: {}", std::strerror(errno)));
}

std::expected<bool, std::string> uses_map(int program, std::uint32_t map_id) {
  const auto ids = map_ids_of(program);
  if (!ids) return std::unexpected(ids.error());
  return std::ranges::find(*ids, map_id) != ids->end();
}

Done note_program(Leftover& leftover, int program) {
  // Not by the associations: a pspd that lives may just have inherited them.
  const auto theirs = uses_map(program, leftover.constants_map_id);
  if (!theirs) return std::unexpected(theirs.error());
  if (!*theirs) return {};
  const auto info = program_info(program);
  if (!info) return std::unexpected(info.error());
  leftover.programs.push_back(info->id);
  return for_each_map(program, [&leftover](UniqueFd map, const bpf_map_info& map_info) {
    return take(leftover, std::move(map), map_info);
  });
}

// find_programs finds what else of that pspd is at the cgroup root, and its maps.
Done find_programs(Leftover& leftover, int cgroup) {
  for (const auto& [name, type] : kCgroupPrograms) {
    const auto programs = attached_at(cgroup, name, type);
    if (!programs) return std::unexpected(programs.error());
    for (const UniqueFd& program : *programs)
      if (Done noted = note_program(leftover, program.get()); !noted) return noted;
  }
  return {};
}

// for_each_at calls `visit(program)` for our programs, of any pspd, at a netdev.
template <typename Visit>
[[nodiscard]] Done for_each_at(const Netdev& netdev, Visit visit) {
  for (const HookProgram& ours : hook_programs()) {
    const auto programs = programs_at(netdev.ifindex, ours);
    if (!programs) return std::unexpected(fmt::format("{}: {}", netdev.name, programs.error()));
    for (const UniqueFd& program : *programs)
      if (Done done = visit(program.get()); !done) return done;
  }
  return {};
}

// of_the_living: does a pspd that lives have these associations? A netdev that moves takes its
// programs along, and leaves its lock behind; it may be on its way back.
std::expected<bool, std::string> of_the_living(std::uint32_t assoc_map_id) {
  const auto cgroup = cgroup_root();
  if (!cgroup) return std::unexpected(cgroup.error());
  const auto programs = attached_at(cgroup->get(), "psp_sock_out", BPF_CGROUP_INET_EGRESS);
  if (!programs) return std::unexpected(programs.error());
  for (const UniqueFd& program : *programs) {
    bool alive = false, theirs = false;
    const auto look = [&](UniqueFd map, const bpf_map_info& info) -> Done {
      theirs |= info.id == assoc_map_id;
      if (!is_guard(info)) return {};
      const auto owner = owner_lives(map.get());
      if (!owner) return std::unexpected(owner.error());
      alive = *owner;
      return {};
    };
    if (Done done = for_each_map(program.get(), look); !done) return std::unexpected(done.error());
    if (alive && theirs) return true;
  }
  return false;
}

// look_at finds the pspd of a psp_sock_out; nothing if it lives.
std::expected<std::optional<Leftover>, std::string> look_at(int sock_out, int cgroup) {
  Leftover leftover;
  bool dead = false;
  const auto read = [&](UniqueFd map, const bpf_map_info& info) -> Done {
    if (!is_guard(info)) return take(leftover, std::move(map), info);
    const auto alive = owner_lives(map.get());
    if (!alive) return std::unexpected(alive.error());
    dead = !*alive;
    auto netdevs = guarded_netdevs(map.get());
    if (!netdevs) return std::unexpected(netdevs.error());
    leftover.netdevs = std::move(*netdevs);
    return {};
  };
  if (Done done = for_each_map(sock_out, read); !done) return std::unexpected(done.error());
  if (!dead || !leftover.maps.assoc) return std::nullopt;
  if (Done done = find_programs(leftover, cgroup); !done) return std::unexpected(done.error());
  const auto living = of_the_living(leftover.assoc_map_id);
  if (!living) return std::unexpected(living.error());
  leftover.inherited = *living;
  return leftover;
}

}  // namespace

std::expected<std::vector<Leftover>, std::string> find_leftovers() {
  const auto cgroup = cgroup_root();
  if (!cgroup) return std::unexpected(cgroup.error());
  const auto programs = attached_at(cgroup->get(), "psp_sock_out", BPF_CGROUP_INET_EGRESS);
  if (!programs) return std::unexpected(programs.error());
  std::vector<Leftover> leftovers;
  for (const UniqueFd& program : *programs) {
    auto found = look_at(program.get(), cgroup->get());
    if (!found) return std::unexpected(found.error());
    if (*found) leftovers.push_back(std::move(**found));
  }
  return leftovers;
}

std::expected<std::optional<Leftover>, std::string> find_leftover_at(const Netdev& netdev) {
  Leftover leftover;
  const auto look = [&leftover](int program) {
    return for_each_map(program, [&leftover](UniqueFd map, const bpf_map_info& info) {
      return take(leftover, std::move(map), info);
    });
  };
  if (Done done = for_each_at(netdev, look); !done) return std::unexpected(done.error());
  if (!leftover.maps.assoc) return std::nullopt;
  const auto living = of_the_living(leftover.assoc_map_id);
  if (!living) return std::unexpected(living.error());
  if (*living) return std::nullopt;
  leftover.netdevs = {netdev.key()};
  return leftover;
}

std::expected<Leftover, std::string> left_by_itself(int assoc_map, int guard_map) {
  const auto info = map_info(assoc_map);
  if (!info) return std::unexpected(info.error());
  auto netdevs = guarded_netdevs(guard_map);
  if (!netdevs) return std::unexpected(netdevs.error());
  std::erase_if(*netdevs, [](device::NetdevKey key) { return key.ifindex == 0; });
  Leftover own;
  own.assoc_map_id = info->id;
  own.netdevs = std::move(*netdevs);
  return own;
}

std::expected<std::uint32_t, std::string> read_restore(const Netdev& netdev) {
  constexpr std::size_t kAt = offsetof(psp_device_config, restore);
  std::uint32_t restore = 0;
  const auto read = [&](UniqueFd map, const bpf_map_info& info) -> Done {
    const std::uint32_t first = 0;
    std::vector<std::uint8_t> value(info.value_size);
    std::uint32_t bits = 0;
    if (std::string(info.name) != "psp_config" || value.size() < kAt + sizeof bits) return {};
    if (bpf_map_lookup_elem(map.get(), &first, value.data()) != 0)
      return std::unexpected(fmt::format("{}: an earlier pspd's settings cannot be read: {}",
                                         netdev.name, std::strerror(errno)));
    std::memcpy(&bits, value.data() + kAt, sizeof bits);
    restore |= bits;
    return {};
  };
  if (Done done = for_each_at(netdev, [&](int program) { return for_each_map(program, read); });
      !done)
    return std::unexpected(done.error());
  return restore;
}

std::expected<void, std::string> restore_netdev(const Netdev& netdev, std::uint32_t restore) {
  // First, and twice: the note of it goes with the programs, and nobody could put it back later.
  Done feature;
  for (int i = 0; i < 2 && (restore & PSP_RESTORE_UDP_GRO_FORWARDING); i++)
    if (feature = set_feature(netdev.name, kUdpGroForwarding, false); feature) break;
  if (!feature) return feature;
  if (Done dropped = drop_waiting_packets(netdev.ifindex); !dropped) return dropped;
  const Done off = take_off(netdev.ifindex, hook_programs(), restore & PSP_RESTORE_CLSACT);
  if (!off) return std::unexpected(fmt::format("{}: {}", netdev.name, off.error()));
  return {};
}

std::expected<void, std::string> remove_from(const Netdev& netdev, const Leftover& leftover) {
  bool theirs = false;
  const auto look = [&](int program) -> Done {
    const auto uses = uses_map(program, leftover.assoc_map_id);
    if (!uses) return std::unexpected(uses.error());
    theirs |= *uses;
    return {};
  };
  if (Done done = for_each_at(netdev, look); !done) return done;
  if (!theirs) return {};
  const auto restore = read_restore(netdev);
  return restore ? restore_netdev(netdev, *restore) : std::unexpected(restore.error());
}

std::expected<void, std::string> remove_from_cgroup(const Leftover& leftover) {
  const auto cgroup = cgroup_root();
  if (!cgroup) return std::unexpected(cgroup.error());
  for (const auto& [name, type] : std::views::reverse(kCgroupPrograms)) {
    const auto programs = attached_at(cgroup->get(), name, type);
    if (!programs) return std::unexpected(programs.error());
    for (const UniqueFd& program : *programs) {
      const auto info = program_info(program.get());
      if (!info) return std::unexpected(info.error());
      if (std::ranges::find(leftover.programs, info->id) != leftover.programs.end() &&
          bpf_prog_detach2(program.get(), cgroup->get(), type) != 0)
        return std::unexpected(
            fmt::format("an earlier pspd's {} cannot be taken off the root "
                        "cgroup: {}",
                        name, std::strerror(errno)));
    }
  }
  return {};
}

namespace {

// mark changes what is noted of a socket for whoever comes next: `change` says whether there is
// something to be written.
Done mark(int noted_map, std::uint64_t cookie, bool (*change)(psp_noted_entry&)) {
  psp_noted_entry entry{};
  if (noted_map < 0) return {};
  const auto info = map_info(noted_map);
  if (!info) return std::unexpected(info.error());
  if (info->value_size != sizeof entry) return {};  // another version's: it counts as alive
  if (bpf_map_lookup_elem(noted_map, &cookie, &entry) == 0) {
    if (!change(entry) || bpf_map_update_elem(noted_map, &cookie, &entry, BPF_EXIST) == 0)
      return {};
  }
  if (errno == ENOENT) return {};  // never had a Tx key, or has ended
  return std::unexpected(
      fmt::format("cannot note that a connection was aborted: {}", std::strerror(errno)));
}

bool to_be_aborted(psp_noted_entry& entry) {
  if (entry.over) return false;
  entry.over = PSP_OVER_BY_PSPD;
  return true;
}
bool not_aborted(psp_noted_entry& entry) {
  if (entry.over != PSP_OVER_BY_PSPD) return false;
  entry.over = 0;
  return true;
}

enum class Fate { kAborted, kNot, kUnknown };

// abort_noted aborts a connection. An application that keeps the socket is in no listing then: that
// it was told is noted before it is, or a crash would lose it. One that disconnected itself before
// was told nothing, and can connect again. Without an answer the next listing tells.
std::expected<Fate, std::string> abort_noted(const SecuredSocket& socket, int noted_map) {
  if (Done done = mark(noted_map, socket.cookie(), to_be_aborted); !done)
    return std::unexpected(done.error());
  const int error = destroy_socket(socket);
  if (error == 0) return Fate::kAborted;
  if (error != ENOENT && error != EOPNOTSUPP && error != EPERM) return Fate::kUnknown;
  if (Done done = mark(noted_map, socket.cookie(), not_aborted); !done)
    return std::unexpected(done.error());
  return Fate::kNot;
}

// leave gives those up that are not to be aborted: they are alive.
Done leave(std::span<const SecuredSocket> sockets, int noted_map, Ended& ended) {
  for (const SecuredSocket& socket : sockets)
    if (Done done = mark(noted_map, socket.cookie(), not_aborted); !done) return done;
  ended.left += sockets.size();
  return {};
}

// end_here ends the secured sockets of the current namespace.
std::expected<void, std::string> end_here(const SecuredMaps& maps, const Which& which,
                                          Ended& ended) {
  // Again until none is left: a listing can miss sockets while others come and go.
  constexpr int kRounds = 10;
  std::unordered_set<std::uint64_t> unknown;
  for (int round = 0;; round++) {
    auto sockets = secured_sockets(maps.assoc);
    if (!sockets) return std::unexpected(sockets.error());
    if (which) std::erase_if(*sockets, std::not_fn(which));
    const auto secured = std::ranges::partition(
        *sockets, [](const auto& socket) { return socket.assoc.state >= PSP_STATE_TX; });
    // A pspd that ended between its note of a socket and the switch: there is nothing to block.
    for (const SecuredSocket& socket : secured)
      if (Done noted = mark(maps.noted, socket.cookie(), to_be_aborted); !noted) return noted;
    sockets->erase(secured.begin(), secured.end());
    for (const SecuredSocket& socket : *sockets) unknown.erase(socket.cookie());
    ended.aborted.merge(std::exchange(unknown, {}));
    if (sockets->empty()) return {};
    if (round == kRounds) return leave(*sockets, maps.noted, ended);
    for (const SecuredSocket& socket : *sockets) {
      const auto fate = abort_noted(socket, maps.noted);
      if (!fate) return std::unexpected(fate.error());
      if (*fate == Fate::kAborted) ended.aborted.insert(socket.cookie());
      if (*fate == Fate::kUnknown) unknown.insert(socket.cookie());
    }
  }
}

}  // namespace

std::expected<void, std::string> end_secured_sockets(const SecuredMaps& maps,
                                                     const NetnsTable& namespaces,
                                                     const Which& which, Ended& ended) {
  ended.left = 0;
  Done all;
  namespaces.for_each([&](const Netns& netns) {
    const InNetns inside(netns);
    const Done here =
        inside.entered()
            ? end_here(maps, which, ended)
            : std::unexpected("a network namespace with secured sockets cannot be entered");
    if (!here) all = here;
  });
  return all;
}

std::expected<std::vector<Noted>, std::string> noted_sockets(int noted_map) {
  constexpr std::uint32_t kBatch = 4096;
  const auto info = map_info(noted_map);
  if (!info) return std::unexpected(info.error());
  const bool known = info->value_size == sizeof(psp_noted_entry);
  std::vector<Noted> noted;
  std::vector<std::uint64_t> cookies(kBatch);
  std::vector<std::uint8_t> values(std::size_t{kBatch} * info->value_size);
  std::uint32_t position = 0, next = 0;
  const void* from = nullptr;
  for (bool more = true; more; from = &position) {
    std::uint32_t count = kBatch;
    const int result = bpf_map_lookup_batch(noted_map, const_cast<void*>(from), &next,
                                            cookies.data(), values.data(), &count, nullptr);
    if (result != 0 && errno != ENOENT)
      return std::unexpected(
          fmt::format("the list of secured sockets cannot be read: {}", std::strerror(errno)));
    more = result == 0;
    position = next;
    for (std::uint32_t i = 0; i < count; i++) {
      psp_noted_entry entry{};
      if (known) std::memcpy(&entry, values.data() + i * sizeof entry, sizeof entry);
      noted.push_back({cookies[i], entry.released != 0, entry.over != 0});
    }
  }
  return noted;
}

std::size_t count_unseen(std::span<const Noted> noted,
                         const std::unordered_set<std::uint64_t>& aborted) {
  return static_cast<std::size_t>(std::ranges::count_if(noted, [&aborted](const Noted& socket) {
    return !socket.released && !socket.over && !aborted.contains(socket.cookie);
  }));
}

}  // namespace psp::kernel
