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

int Process::begin_call() {
  const bool dies = random_.chance(faults_.death), fails = random_.chance(faults_.error);
  killed_ |= dies;
  if (killed_) return -EBADF;
  return fails ? -ENOMEM : 0;
}

// failing_allocation: one of the first ones, as most turns have few.
unsigned Process::failing_allocation() {
  const bool fails = random_.chance(faults_.memory);
  const auto which = static_cast<unsigned>(random_.between(1, 30));
  return fails ? which : 0;
}

// stored is an element of socket storage, whose key from outside is a descriptor.
const void* Process::stored(Map& storage, const void* key) {
  int fd = -1;
  std::memcpy(&fd, key, sizeof fd);
  const Tcp* of = socket(fd);
  return of == nullptr ? nullptr : storage.lookup(&of->id);
}

Process::Inside::Inside(Process& process) : memory_(process.failing_allocation()) {
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

namespace {

// model runs a call in the model, with memory that is not the process's.
template <typename Call>
int model(Call&& call) {
  const psp::ScarceMemory::Plenty kernels;
  Process& process = Process::current();
  const int fault = process.begin_call();
  return psp::sim::result(fault != 0 ? fault : call(process));
}

}  // namespace

int sim_getsockopt(int fd, int level, int name, void* value, socklen_t* size) {
  return model([=](Process& process) {
    psp::sim::Tcp* socket = process.socket(fd);
    return socket == nullptr ? -EBADF
                             : process.kernel().getsockopt(*socket, level, name, value, *size);
  });
}

int sim_setsockopt(int fd, int level, int name, const void* value, socklen_t size) {
  return model([=](Process& process) {
    psp::sim::Tcp* socket = process.socket(fd);
    return socket == nullptr ? -EBADF
                             : process.kernel().setsockopt(*socket, level, name, value, size);
  });
}

int sim_map_lookup_elem(int fd, const void* key, void* value) {
  return model([=](Process& process) {
    psp::sim::Map* map = process.map(fd);
    if (map == nullptr) return -EBADF;
    const void* there = process.is_storage(*map) ? process.stored(*map, key) : map->lookup(key);
    if (there == nullptr) return -ENOENT;
    std::memcpy(value, there, map->value_size());
    return 0;
  });
}

int sim_map_update_elem(int fd, const void* key, const void* value, __u64 flags) {
  return model([=](Process& process) {
    psp::sim::Map* map = process.map(fd);
    return map == nullptr ? -EBADF : map->update(key, value, flags);
  });
}

int sim_map_delete_elem(int fd, const void* key) {
  return model([=](Process& process) {
    psp::sim::Map* map = process.map(fd);
    return map == nullptr ? -EBADF : map->erase(key);
  });
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
