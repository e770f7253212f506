// SPDX-License-Identifier: Apache-2.0
//
// By open file description locks: those of a process would go when any descriptor of the file is
// closed.
#include "host_lock.hh"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <thread>
#include <unistd.h>

namespace psp::datapath {
namespace {

// A position in the file is not negative: 62 bits of the epoch, or a netdev in the half above.
constexpr std::uint64_t kNetdevs = 1ull << 62;
// No pspd has this epoch: it is the position of who takes over.
constexpr std::uint64_t kTakeover = 0;

flock range(std::uint64_t position, short type) {
  flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(position);
  lock.l_len = 1;
  return lock;
}

UniqueFd lock_file(int flags) {
  const UniqueFd root = root_cgroup();
  return root ? UniqueFd(::openat(root.get(), "cgroup.procs", flags | O_CLOEXEC)) : UniqueFd();
}

std::uint64_t position_of(std::uint64_t epoch) { return epoch % kNetdevs; }

// Namespaces are counted from 1 and never again; a netdev's number has 31 bits.
std::uint64_t position_of(device::NetdevKey netdev) {
  return kNetdevs | ((netdev.netns << 31 | netdev.ifindex) % kNetdevs);
}

// is_locked: has a pspd the lock? Its locks are for writing. One for reading is anybody's who may
// read the file, and says nothing. Yes where the kernel does not tell.
bool is_locked(int file, std::uint64_t position) {
  flock lock = range(position, F_RDLCK);
  return ::fcntl(file, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

// try_lock gives the locked file, or the errno: EBUSY if a pspd has the lock, EAGAIN if somebody
// else keeps it from being taken.
std::expected<UniqueFd, int> try_lock(std::uint64_t position) {
  UniqueFd file = lock_file(O_RDWR);
  flock lock = range(position, F_WRLCK);
  if (!file) return std::unexpected(errno);
  if (::fcntl(file.get(), F_OFD_SETLK, &lock) == 0) return file;
  if (errno != EAGAIN && errno != EACCES) return std::unexpected(errno);
  return std::unexpected(is_locked(file.get(), position) ? EBUSY : EAGAIN);
}

std::string why(int error) {
  if (error != EAGAIN) return std::strerror(error);
  return "a program that is no pspd has locked cgroup.procs at the root of the cgroup-v2 tree for "
         "reading (see /proc/locks): end it";
}

}  // namespace

UniqueFd root_cgroup() {
  const UniqueFd context(::fsopen("cgroup2", FSOPEN_CLOEXEC));
  if (!context || ::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0)
    return {};
  return UniqueFd(::fsmount(context.get(), FSMOUNT_CLOEXEC, 0));
}

std::expected<UniqueFd, std::string> lock_epoch(std::uint64_t epoch) {
  auto file = try_lock(position_of(epoch));
  if (file) return std::move(*file);
  return std::unexpected(fmt::format(
      "cannot take a lock in the cgroup-v2 tree (needs CONFIG_CGROUPS and CAP_SYS_ADMIN): {}",
      why(file.error())));
}

std::expected<bool, std::string> lives(std::uint64_t epoch) {
  const UniqueFd file = lock_file(O_RDONLY);
  if (!file)
    return std::unexpected(
        fmt::format("it cannot be told whether another pspd lives: {}", std::strerror(errno)));
  return is_locked(file.get(), position_of(epoch));
}

std::expected<UniqueFd, std::string> lock_takeover(bool wait) {
  const int tries = wait ? 100 : 0;
  auto file = try_lock(kTakeover);
  for (int i = 0; i < tries && !file && file.error() == EBUSY; i++) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    file = try_lock(kTakeover);
  }
  if (file) return std::move(*file);
  return std::unexpected(
      fmt::format("what earlier pspds left cannot be taken over: {}",
                  file.error() == EBUSY ? "another pspd is at it" : why(file.error())));
}

std::expected<UniqueFd, std::string> lock_netdev(device::NetdevKey netdev,
                                                 const std::string& name) {
  auto file = try_lock(position_of(netdev));
  if (file) return std::move(*file);
  if (file.error() == EBUSY)
    return std::unexpected(fmt::format("{} already has a pspd: stop that one first", name));
  return std::unexpected(
      fmt::format("{} cannot be locked for this pspd: {}", name, why(file.error())));
}

}  // namespace psp::datapath
