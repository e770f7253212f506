// SPDX-License-Identifier: Apache-2.0
//
// Process: what descriptors of pspd mean while product code that makes system calls runs over the
// model: src/kernel/sockets.cc is compiled with the calls of syscalls.h in the place of the
// kernel's and libbpf's. Any of these calls can fail, and the process can be killed before any.
#pragma once

#include <map>
#include <memory>

#include "base/scarce_memory.hh"

#include "kernel.hh"
#include "random.hh"

namespace psp::sim {

// CallFaults is how often product code meets with what: parts in a million.
struct CallFaults {
  std::uint32_t error = 0;   // of its calls: the kernel has no memory
  std::uint32_t death = 0;   // of its calls: it is killed before that
  std::uint32_t memory = 0;  // of its turns: one of its allocations fails
};

class Process {
 public:
  // `faults` outlives this, and may change.
  Process(Kernel& kernel, Random random, const CallFaults& faults)
      : kernel_(kernel), random_(random), faults_(faults) {}

  // begin_call is what each call begins with: 0, or the errno that it fails with. Once it has been
  // killed no call does anything. What its code still does in memory nobody will see.
  int begin_call();
  bool killed() const { return killed_; }

  // Number of a descriptor. A socket's is valid while it is borrowed.
  int borrow(std::shared_ptr<Tcp> socket);
  void give_back(int fd) { sockets_.erase(fd); }
  int number(std::shared_ptr<Map> map);

  // storage says which map is the storage of sockets.
  void storage(const std::shared_ptr<Map>& map) { storage_ = map.get(); }
  bool is_storage(const Map& map) const { return &map == storage_; }
  const void* stored(Map& storage, const void* key);

  Kernel& kernel() { return kernel_; }
  Tcp* socket(int fd);
  Map* map(int fd);

  // Inside: calls and allocations are those of this process. One at a time.
  class Inside {
   public:
    explicit Inside(Process& process);
    ~Inside();
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;

   private:
    ScarceMemory memory_;
  };
  // current is who is inside.
  static Process& current();

 private:
  unsigned failing_allocation();

  Kernel& kernel_;
  Random random_;
  const CallFaults& faults_;
  bool killed_ = false;
  const Map* storage_ = nullptr;
  int last_ = 1000;
  std::map<int, std::shared_ptr<Tcp>> sockets_;
  std::map<int, std::shared_ptr<Map>> maps_;
};

}  // namespace psp::sim
