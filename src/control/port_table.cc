// SPDX-License-Identifier: Apache-2.0
//
// A line is "sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode", where Eth is the protocol and Pid
// the port. Pages end where they like, so the rest of a line waits for the next page.
//
// The kernel makes the file while it is read, so a socket that is there may be missing in it:
// Delivery takes none for closed after one reading only. One that somebody has just shown (is_open)
// is there, whatever the table says.
#include "port_table.hh"

#include <algorithm>
#include <charconv>
#include <linux/netlink.h>
#include <string_view>
#include <unistd.h>
#include <utility>

namespace psp::control {
namespace {

// number_at reads the unsigned number that stands as word `index` of a line.
std::optional<unsigned long> number_at(std::string_view line, int index) {
  std::size_t at = 0;
  for (int word = 0;; word++) {
    at = line.find_first_not_of(' ', at);
    if (at == std::string_view::npos) return std::nullopt;
    const std::size_t end = std::min(line.find(' ', at), line.size());
    if (word == index) {
      unsigned long value = 0;
      const auto parsed = std::from_chars(line.data() + at, line.data() + end, value);
      if (parsed.ec != std::errc{}) return std::nullopt;
      return value;
    }
    at = end;
  }
}

}  // namespace

bool PortTable::start() {
  if (::lseek(file_.get(), 0, SEEK_SET) != 0) return false;
  next_.emplace();
  text_.clear();
  return true;
}

bool PortTable::read_page() {
  char page[4096];
  const ssize_t n = ::read(file_.get(), page, sizeof page);
  if (n <= 0) {
    now_ = std::move(*next_);
    next_.reset();
    return false;
  }
  text_.append(page, static_cast<std::size_t>(n));
  std::size_t start = 0;
  for (std::size_t end; (end = text_.find('\n', start)) != std::string::npos; start = end + 1) {
    const auto line = std::string_view(text_).substr(start, end - start);
    const auto protocol = number_at(line, 1), port = number_at(line, 2), inode = number_at(line, 9);
    if (!protocol || !port || !inode || *protocol != NETLINK_GENERIC) continue;
    if (*port == 0)
      next_->unbound.insert(static_cast<ino_t>(*inode));
    else
      next_->bound[static_cast<std::uint32_t>(*port)] = static_cast<ino_t>(*inode);
  }
  text_.erase(0, start);
  return true;
}

bool PortTable::has(std::uint32_t port, ino_t inode) const {
  if (port == 0) return now_.unbound.contains(inode);
  const auto found = now_.bound.find(port);
  return found != now_.bound.end() && found->second == inode;
}

bool PortTable::reused(std::uint32_t port, ino_t inode) const {
  const auto found = now_.bound.find(port);
  return found != now_.bound.end() && found->second != inode;
}

void PortTable::is_open(std::uint32_t port, ino_t inode) {
  if (reused(port, inode)) now_.bound.erase(port);
  if (next_) next_->bound.erase(port);
}

}  // namespace psp::control
