// SPDX-License-Identifier: Apache-2.0
//
// Process: what descriptors of pspd mean while product code that makes system calls runs over the
// model: src/kernel/sockets.cc is compiled with the calls of syscalls.h in the place of the
// kernel's and libbpf's.
#pragma once

#include <map>
#include <memory>

#include "kernel.hh"

namespace psp::sim {

class Process {
 public:
  explicit Process(Kernel& kernel) : kernel_(kernel) {}

  // Number of a descriptor. A socket's is valid while it is borrowed.
  int borrow(std::shared_ptr<Tcp> socket);
  void give_back(int fd) { sockets_.erase(fd); }
  int number(std::shared_ptr<Map> map);

  Kernel& kernel() { return kernel_; }
  Tcp* socket(int fd);
  Map* map(int fd);

  // Inside: calls are those of this process. One at a time.
  class Inside {
   public:
    explicit Inside(Process& process);
    ~Inside();
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;
  };
  // current is who is inside.
  static Process& current();

 private:
  Kernel& kernel_;
  int last_ = 1000;
  std::map<int, std::shared_ptr<Tcp>> sockets_;
  std::map<int, std::shared_ptr<Map>> maps_;
};

}  // namespace psp::sim
