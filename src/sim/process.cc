// SPDX-License-Identifier: Apache-2.0
//
// System calls of the model, and the members of kernel's classes that sockets.cc asks for: which
// maps there are, and which namespaces. Their real ones are of a real kernel.
//
// A descriptor that the process does not have is EBADF, as it would be. Calls outside of a process
// abort: product code that made one would reach the real kernel otherwise, with numbers that mean
// something else there. One process is inside at a time; there is one thread.
#include "process.hh"

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "kernel/netns.hh"
#include "kernel/programs.hh"

#include "syscalls.h"

namespace psp::sim {
namespace {

Process* inside = nullptr;

// result makes of a negative errno what libc and libbpf return.
int result(int error) {
  if (error >= 0) return 0;
  errno = -error;
  return -1;
}

}  // namespace

int Process::borrow(std::shared_ptr<Tcp> socket) {
  sockets_[++last_] = std::move(socket);
  return last_;
}

int Process::number(std::shared_ptr<Map> map) {
  maps_[++last_] = std::move(map);
  return last_;
}

Tcp* Process::socket(int fd) {
  const auto found = sockets_.find(fd);
  return found == sockets_.end() ? nullptr : found->second.get();
}

Map* Process::map(int fd) {
  const auto found = maps_.find(fd);
  return found == maps_.end() ? nullptr : found->second.get();
}

Process::Inside::Inside(Process& process) {
  if (inside != nullptr) std::abort();
  inside = &process;
}
Process::Inside::~Inside() { inside = nullptr; }

Process& Process::current() {
  if (inside == nullptr) std::abort();
  return *inside;
}

}  // namespace psp::sim

using psp::sim::Process;

int sim_getsockopt(int fd, int level, int name, void* value, socklen_t* size) {
  Process& process = Process::current();
  psp::sim::Tcp* socket = process.socket(fd);
  if (socket == nullptr) return psp::sim::result(-EBADF);
  return psp::sim::result(process.kernel().getsockopt(*socket, level, name, value, *size));
}

int sim_setsockopt(int fd, int level, int name, const void* value, socklen_t size) {
  Process& process = Process::current();
  psp::sim::Tcp* socket = process.socket(fd);
  if (socket == nullptr) return psp::sim::result(-EBADF);
  return psp::sim::result(process.kernel().setsockopt(*socket, level, name, value, size));
}

int sim_map_lookup_elem(int fd, const void* key, void* value) {
  psp::sim::Map* map = Process::current().map(fd);
  if (map == nullptr) return psp::sim::result(-EBADF);
  const void* there = map->lookup(key);
  if (there == nullptr) return psp::sim::result(-ENOENT);
  std::memcpy(value, there, map->value_size());
  return 0;
}

int sim_map_update_elem(int fd, const void* key, const void* value, __u64 flags) {
  psp::sim::Map* map = Process::current().map(fd);
  return psp::sim::result(map == nullptr ? -EBADF : map->update(key, value, flags));
}

int sim_map_delete_elem(int fd, const void* key) {
  psp::sim::Map* map = Process::current().map(fd);
  return psp::sim::result(map == nullptr ? -EBADF : map->erase(key));
}

namespace psp::kernel {

// --- SocketPrograms: the numbers of the maps, which the process has by its Secrets

struct SocketPrograms::Impl {
  SocketMaps maps;
};
SocketPrograms::SocketPrograms(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SocketPrograms::SocketPrograms(SocketPrograms&&) noexcept = default;
SocketPrograms::~SocketPrograms() = default;
const SocketMaps& SocketPrograms::maps() const { return impl_->maps; }

// load takes the maps as they are in `inherited`, as numbers of the process inside.
std::expected<SocketPrograms, std::string> SocketPrograms::load(const Secrets&, std::uint32_t,
                                                                const SharedMaps* inherited) {
  auto impl = std::make_unique<Impl>();
  impl->maps = {.assoc = inherited->assoc.get(),
                .departed = inherited->departed.get(),
                .by_tx_spi = inherited->by_tx_spi.get(),
                .noted = inherited->noted.get()};
  return SocketPrograms(std::move(impl));
}

// --- NetnsTable: the one namespace of the process

std::expected<Netns, std::string> Netns::current() {
  return Netns(UniqueFd(), Process::current().kernel().options().netns);
}
NetnsTable::NetnsTable(Netns home) : home_(home.cookie()) { all_.emplace(home_, std::move(home)); }
std::expected<NetnsTable, std::string> NetnsTable::open() { return NetnsTable(*Netns::current()); }
const Netns* NetnsTable::find(std::uint64_t cookie) const {
  const auto found = all_.find(cookie);
  return found == all_.end() ? nullptr : &found->second;
}

}  // namespace psp::kernel
