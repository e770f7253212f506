// SPDX-License-Identifier: Apache-2.0
#include "socket_file.hh"

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

namespace psp {
namespace {

struct Address {
  sockaddr_un name{};
  socklen_t length = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&name); }
};

std::unexpected<SocketFile::Error> failed(const std::string& text, int error) {
  return std::unexpected(SocketFile::Error{
      error == EADDRINUSE, fmt::format("cannot listen at {}: {}", text, std::strerror(error))});
}

std::optional<Address> address_of(const std::string& text) {
  Address address;
  address.name.sun_family = AF_UNIX;
  if (text.empty() || text == "@" || text.size() >= sizeof address.name.sun_path)
    return std::nullopt;
  text.copy(address.name.sun_path, text.size());
  address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + text.size());
  if (text[0] == '@')
    address.name.sun_path[0] = '\0';
  else
    address.length++;
  return address;
}

// make_way removes a socket that nobody listens at; the error is an errno.
std::expected<void, int> make_way(const Address& address, int type) {
  const char* path = address.name.sun_path;
  struct stat status {};
  if (::lstat(path, &status) != 0)
    return errno == ENOENT ? std::expected<void, int>() : std::unexpected(errno);
  // A link as well: what it leads to is not ours to remove.
  if (!S_ISSOCK(status.st_mode)) return std::unexpected(ENOTSOCK);
  const UniqueFd probe(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return std::unexpected(errno);
  // Any other answer, also that the type does not fit, is that of a socket which is alive.
  if (::connect(probe.get(), address.get(), address.length) == 0 || errno != ECONNREFUSED)
    return std::unexpected(EADDRINUSE);
  if (::unlink(path) != 0) return std::unexpected(errno);
  return {};
}

}  // namespace

std::expected<SocketFile, SocketFile::Error> SocketFile::listen_at(const std::string& text,
                                                                   int type, mode_t mode) {
  const auto address = address_of(text);
  if (!address)
    return std::unexpected(Error{false, fmt::format("'{}' is no address for a socket", text)});
  const bool abstract = text[0] == '@';
  if (const auto free = abstract ? std::expected<void, int>() : make_way(*address, type); !free)
    return free.error() == ENOTSOCK
               ? std::unexpected(Error{
                     false, fmt::format("cannot listen at {}: it is there and not a socket", text)})
               : failed(text, free.error());
  SocketFile out(UniqueFd(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)));
  if (!out.fd_ || ::bind(out.fd(), address->get(), address->length) != 0)
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
