// SPDX-License-Identifier: Apache-2.0
//
// UniqueFd: a file descriptor with one owner. It is closed once and never again: by then the number
// may be that of a descriptor which another thread has opened. What close() says is not heard: who
// has to know that all is written closes for himself (pcap/file.cc). A borrowed descriptor whose
// close() may wait is for control/closer.hh.
#pragma once

#include <unistd.h>
#include <utility>

namespace psp {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  // release gives the descriptor to the caller.
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

}  // namespace psp
