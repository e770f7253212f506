// SPDX-License-Identifier: Apache-2.0
//
// StatsSocket: a unix socket that gives whoever connects one line of JSON. Any user of the host may
// ask if the file's directory lets them; there are no secrets in it.
//
// Threading: one thread.
#pragma once

#include <expected>
#include <string>

#include <psp/base/unique_fd.hh>

namespace psp::proxy {

class StatsSocket {
 public:
  // open takes over a socket file that nobody answers at. The error is a sentence.
  static std::expected<StatsSocket, std::string> open(const std::string& path);
  StatsSocket(StatsSocket&&) noexcept = default;
  ~StatsSocket();

  int fd() const { return fd_.get(); }
  // answer accepts one connection, writes `line` to it and closes it.
  void answer(const std::string& line);

 private:
  StatsSocket(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  UniqueFd fd_;
  std::string path_;
};

}  // namespace psp::proxy
