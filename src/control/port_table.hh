// SPDX-License-Identifier: Apache-2.0
//
// PortTable: the generic netlink sockets of a network namespace by port and inode, as its
// /proc/net/netlink has them. Anybody can make that file long, so it is read page by page, and what
// was read before counts until the last page is there.
//
// Threading: the control thread only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <sys/types.h>
#include <unordered_map>
#include <unordered_set>

#include "base/unique_fd.hh"

namespace psp::control {

class PortTable {
 public:
  // `file` is the open /proc/net/netlink of the namespace.
  explicit PortTable(UniqueFd file) : file_(std::move(file)) {}

  // reading: some pages have been read and others not.
  bool reading() const { return next_.has_value(); }
  // start begins at the first page. False: the file cannot be read.
  bool start();
  // read_page reads one more. False: that was the last, and the table is new.
  bool read_page();

  // Bound are the sockets that have a port.
  using Bound = std::unordered_map<std::uint32_t, ino_t>;
  const Bound& bound() const { return now_.bound; }
  // has: is that socket there? Port 0: it has none.
  bool has(std::uint32_t port, ino_t inode) const;
  // reused: the port is another socket's.
  bool reused(std::uint32_t port, ino_t inode) const;
  // is_open notes that this socket is there, of which the table may be too old to know.
  void is_open(std::uint32_t port, ino_t inode);

 private:
  struct Open {
    Bound bound;
    std::unordered_set<ino_t> unbound;
  };
  UniqueFd file_;
  Open now_;
  std::optional<Open> next_;
  std::string text_;  // of the pages: a line that is not whole yet
};

}  // namespace psp::control
