// SPDX-License-Identifier: Apache-2.0
//
// ReadyFiles: the descriptors of a loop that are readable, the one with the lowest order first. The
// kernel tells of each once (EPOLLET) until it had its turn: a thousand that wait for theirs cost
// each turn nothing. To queue one takes no memory.
//
// Threading: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "base/unique_fd.hh"

namespace psp {

class ReadyFiles {
  struct Order {
    std::int64_t order = 0;    // as Loop::Source::set_order has it
    std::uint64_t number = 0;  // among equals whoever was ready first
    auto operator<=>(const Order&) const = default;
  };

 public:
  // File is one that is watched; it stays where it is meanwhile.
  class File {
    friend class ReadyFiles;
    using Queue = std::map<Order, File*>;
    int fd_ = -1;
    std::int64_t order_ = 0;
    Queue::node_type node_;  // while it is not queued
    Queue::iterator place_;  // while it is

   public:
    std::function<void()> call;
  };

  ReadyFiles();

  // fd is readable while a file may have become ready; -1: the kernel gave none.
  int fd() const { return epoll_.get(); }
  // prepare takes the memory that `file` needs. May throw std::bad_alloc.
  static void prepare(File& file, int fd);
  // watch returns 0 or an errno; forget needs no memory.
  int watch(File& file) const;
  void forget(File& file);
  void set_order(File& file, std::int64_t order);

  // collect takes in what has become ready.
  void collect();
  // next takes out whose turn it is of those with that order or a higher one; null: nobody's. While
  // more is to be read, or once it is again, it will be ready again.
  File* next(std::int64_t from);
  bool empty() const { return queue_.empty(); }

 private:
  void queue(File& file);
  void unqueue(File& file) { file.node_ = queue_.extract(file.place_); }

  UniqueFd epoll_;
  File::Queue queue_;
  std::uint64_t queued_ = 0;
};

}  // namespace psp
