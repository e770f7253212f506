// SPDX-License-Identifier: Apache-2.0
//
// SocketFile: a listening unix socket and the file that names it. All sockets that our programs
// listen at are made here: what is in the way is removed only if it is a socket that nobody
// listens at, and the file only as long as it is still ours.
//
// Threading: one thread.
#pragma once

#include <expected>
#include <optional>
#include <string>
#include <sys/types.h>
#include <utility>

#include "base/unique_fd.hh"

namespace psp {

class SocketFile {
 public:
  struct Error {
    bool taken = false;  // somebody listens there
    std::string text;    // a sentence
  };
  // listen_at makes a non-blocking socket of `type` at a path, or with a leading @ an abstract one.
  // A path gets `mode`, whatever the umask.
  static std::expected<SocketFile, Error> listen_at(const std::string& address, int type,
                                                    mode_t mode);
  SocketFile(SocketFile&& other) noexcept
      : fd_(std::move(other.fd_)), file_(std::exchange(other.file_, std::nullopt)) {}
  SocketFile& operator=(SocketFile&&) = delete;
  ~SocketFile();

  int fd() const { return fd_.get(); }

 private:
  struct File {
    std::string path;
    dev_t device;
    ino_t inode;
  };
  explicit SocketFile(UniqueFd fd) : fd_(std::move(fd)) {}

  UniqueFd fd_;
  std::optional<File> file_;  // none: abstract
};

}  // namespace psp
