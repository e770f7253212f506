// SPDX-License-Identifier: Apache-2.0
//
// Making and removing a listening socket's file. What stands at the path may be anybody's: it is
// looked at without following links, and only a socket that refuses connections counts as left
// behind.
#include "base/socket_file.hh"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/unix_address.hh"

namespace psp {
namespace {

std::unexpected<SocketFile::Error> failed(const std::string& text, int error) {
  return std::unexpected(SocketFile::Error{
      error == EADDRINUSE, fmt::format("cannot listen at {}: {}", text, std::strerror(error))});
}

// make_way removes a socket that nobody listens at; the error is an errno.
std::expected<void, int> make_way(const UnixAddress& address, int type) {
  const char* path = address.path();
  struct stat status {};
  if (::lstat(path, &status) != 0)
    return errno == ENOENT ? std::expected<void, int>() : std::unexpected(errno);
  // A link as well: what it leads to is not ours to remove.
  if (!S_ISSOCK(status.st_mode)) return std::unexpected(ENOTSOCK);
  const UniqueFd probe(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return std::unexpected(errno);
  // Any other answer, also that the type does not fit, is that of a socket which is alive.
  if (::connect(probe.get(), address.get(), address.length()) == 0 || errno != ECONNREFUSED)
    return std::unexpected(EADDRINUSE);
  if (::unlink(path) != 0) return std::unexpected(errno);
  return {};
}

}  // namespace

std::expected<SocketFile, SocketFile::Error> SocketFile::listen_at(const std::string& text,
                                                                   int type, mode_t mode) {
  const auto address = UnixAddress::parse(text);
  if (!address)
    return std::unexpected(Error{false, fmt::format("'{}' is no address for a socket", text)});
  const bool abstract = address->path() == nullptr;
  if (const auto free = abstract ? std::expected<void, int>() : make_way(*address, type); !free)
    return free.error() == ENOTSOCK
               ? std::unexpected(Error{
                     false, fmt::format("cannot listen at {}: it is there and not a socket", text)})
               : failed(text, free.error());
  SocketFile out(UniqueFd(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)));
  if (!out.fd_ || ::bind(out.fd(), address->get(), address->length()) != 0)
    return failed(text, errno);
  struct stat status {};
  if (!abstract) {
    if (::lstat(text.c_str(), &status) != 0 || !S_ISSOCK(status.st_mode))
      return failed(text, EADDRINUSE);
    out.file_ = File{text, status.st_dev, status.st_ino};
    // Not through a link that somebody has put in its place.
    if (::fchmodat(AT_FDCWD, text.c_str(), mode, AT_SYMLINK_NOFOLLOW) != 0)
      return failed(text, errno);
  }
  if (::listen(out.fd(), SOMAXCONN) != 0) return failed(text, errno);
  return out;
}

SocketFile::~SocketFile() {
  struct stat status {};
  if (file_ && ::lstat(file_->path.c_str(), &status) == 0 && status.st_dev == file_->device &&
      status.st_ino == file_->inode)
    ::unlink(file_->path.c_str());
}

}  // namespace psp
