// SPDX-License-Identifier: Apache-2.0
//
// A map is made first and then looked for: of those with one name the oldest is the lock, so of two
// who try at once one has it. No file, port or socket would do: each of these belongs to a
// namespace that a second pspd need not share, and a file outlives who made it. bpftool and other
// pspds hold every map for a moment while they list them, so one that is found is looked for again
// before it counts.
#include "host_lock.hh"

#include <array>
#include <bpf/bpf.h>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fmt/format.h>
#include <optional>
#include <sys/mount.h>
#include <thread>
#include <unistd.h>

namespace psp::kernel {
namespace {

using std::chrono::milliseconds;

// 62 bits of the epoch, or a netdev in the half above.
constexpr std::uint64_t kNetdevs = 1ull << 62;
// No pspd has this epoch: it is the position of who takes over.
constexpr std::uint64_t kTakeover = 0;
// Who lists the maps of the host holds each for a moment, bpftool as well as another pspd.
constexpr int kLooks = 4;
constexpr milliseconds kBetweenLooks{5};
constexpr int kMostMaps = 1 << 20;  // of a host

std::uint64_t position_of(std::uint64_t epoch) { return epoch % kNetdevs; }

// Namespaces are counted from 1 and never again; a netdev's number has 31 bits.
std::uint64_t position_of(device::NetdevKey netdev) {
  return kNetdevs | ((netdev.netns << 31 | netdev.ifindex) % kNetdevs);
}

// name_of spells a position with the 64 characters that the kernel allows in a name.
std::string name_of(std::uint64_t position) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.";
  std::string name = "psp_";
  for (int shift = 60; shift >= 0; shift -= 6) name += kDigits[position >> shift & 63];
  return name;
}
static_assert(sizeof "psp_" + 11 == BPF_OBJ_NAME_LEN);

// Numbers of maps have 31 bits, rise, and then begin again.
bool is_older(std::uint32_t one, std::uint32_t other) {
  return ((other - one) & 0x7fffffffu) - 1 < 0x3fffffffu;
}

// held tells whether there is a lock of that name, but for `own` and what is younger. Errors:
// errno.
std::expected<bool, int> held(const std::string& name, std::optional<std::uint32_t> own) {
  std::uint32_t id = 0;
  for (int i = 0; i < kMostMaps; i++) {
    if (bpf_map_get_next_id(id, &id) != 0) {
      if (errno == ENOENT) return false;
      return std::unexpected(errno);
    }
    const UniqueFd map(bpf_map_get_fd_by_id(id));
    if (!map && errno == ENOENT) continue;  // has gone
    bpf_map_info info{};
    std::uint32_t length = sizeof info;
    if (!map || bpf_obj_get_info_by_fd(map.get(), &info, &length) != 0)
      return std::unexpected(errno);
    if (info.type == BPF_MAP_TYPE_QUEUE && name == info.name && (!own || is_older(id, *own)))
      return true;
  }
  return std::unexpected(E2BIG);
}

// held_for_good is held() of what lasts longer than a look.
std::expected<bool, int> held_for_good(const std::string& name, std::optional<std::uint32_t> own) {
  auto answer = held(name, own);
  for (int i = 1; i < kLooks && answer && *answer; i++) {
    std::this_thread::sleep_for(kBetweenLooks);
    answer = held(name, own);
  }
  return answer;
}

// try_lock gives what holds the lock, or the errno: EBUSY if another has it.
std::expected<UniqueFd, int> try_lock(std::uint64_t position) {
  const std::string name = name_of(position);
  // A queue, since maps of many other types are anybody's where unprivileged BPF is switched on.
  UniqueFd map(bpf_map_create(BPF_MAP_TYPE_QUEUE, name.c_str(), 0, 1, 1, nullptr));
  bpf_map_info info{};
  std::uint32_t length = sizeof info;
  if (!map || bpf_obj_get_info_by_fd(map.get(), &info, &length) != 0) return std::unexpected(errno);
  const auto other = held_for_good(name, info.id);
  if (!other) return std::unexpected(other.error());
  if (*other) return std::unexpected(EBUSY);
  return map;
}

}  // namespace

UniqueFd root_cgroup() {
  const UniqueFd context(::fsopen("cgroup2", FSOPEN_CLOEXEC));
  if (!context || ::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0)
    return {};
  return UniqueFd(::fsmount(context.get(), FSMOUNT_CLOEXEC, 0));
}

std::expected<UniqueFd, std::string> lock_epoch(std::uint64_t epoch) {
  auto lock = try_lock(position_of(epoch));
  if (lock) return std::move(*lock);
  return std::unexpected(
      fmt::format("cannot make the BPF map that says that this pspd lives (needs CAP_BPF and "
                  "CAP_SYS_ADMIN): {}",
                  std::strerror(lock.error())));
}

std::expected<bool, std::string> lives(std::uint64_t epoch) {
  const auto answer = held_for_good(name_of(position_of(epoch)), std::nullopt);
  if (answer) return *answer;
  return std::unexpected(fmt::format("it cannot be told whether another pspd lives: {}",
                                     std::strerror(answer.error())));
}

std::expected<UniqueFd, std::string> lock_takeover(bool wait) {
  const int tries = wait ? 50 : 0;
  auto lock = try_lock(kTakeover);
  for (int i = 0; i < tries && !lock && lock.error() == EBUSY; i++) {
    std::this_thread::sleep_for(milliseconds(50));
    lock = try_lock(kTakeover);
  }
  if (lock) return std::move(*lock);
  return std::unexpected(
      fmt::format("what earlier pspds left cannot be taken over: {}",
                  lock.error() == EBUSY ? "another pspd is at it" : std::strerror(lock.error())));
}

std::expected<UniqueFd, std::string> lock_netdev(device::NetdevKey netdev,
                                                 const std::string& name) {
  auto lock = try_lock(position_of(netdev));
  if (lock) return std::move(*lock);
  if (lock.error() == EBUSY)
    return std::unexpected(fmt::format("{} already has a pspd: stop that one first", name));
  return std::unexpected(
      fmt::format("{} cannot be locked for this pspd: {}", name, std::strerror(lock.error())));
}

}  // namespace psp::kernel
