// SPDX-License-Identifier: Apache-2.0
#include "stats_socket.hh"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

namespace psp::proxy {
namespace {

const sockaddr* generic(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

// bind_to is 0 or an errno.
int bind_to(const UniqueFd& fd, const sockaddr_un& address) {
  return fd && bind(fd.get(), generic(address), sizeof address) == 0 ? 0 : errno;
}

bool nobody_answers(const sockaddr_un& address) {
  const UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return probe && connect(probe.get(), generic(address), sizeof address) != 0 &&
         errno == ECONNREFUSED;
}

}  // namespace

std::expected<StatsSocket, std::string> StatsSocket::open(const std::string& path) {
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  if (path.size() >= sizeof address.sun_path)
    return std::unexpected(fmt::format("--stats-socket: {} is too long a path", path));
  path.copy(address.sun_path, path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  int error = bind_to(fd, address);
  if (error == EADDRINUSE && nobody_answers(address) && unlink(path.c_str()) == 0)
    error = bind_to(fd, address);
  if (error != 0 || ::listen(fd.get(), 16) != 0)
    return std::unexpected(fmt::format("--stats-socket: cannot listen at {}: {}", path,
                                       std::strerror(error != 0 ? error : errno)));
  return StatsSocket(std::move(fd), path);
}

StatsSocket::~StatsSocket() {
  if (fd_) unlink(path_.c_str());
}

void StatsSocket::answer(const std::string& line) {
  const UniqueFd asker(accept4(fd_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  // A line fits into any socket's buffer, and an asker that has gone needs no answer.
  if (asker) send(asker.get(), line.data(), line.size(), MSG_NOSIGNAL);
}

}  // namespace psp::proxy
