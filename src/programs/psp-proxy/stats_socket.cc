// SPDX-License-Identifier: Apache-2.0
#include "stats_socket.hh"

#include <sys/socket.h>

namespace psp::proxy {

std::expected<StatsSocket, std::string> StatsSocket::open(const std::string& address) {
  // Anybody may ask whom the directory lets in: there are no secrets in a line of statistics.
  auto listener = SocketFile::listen_at(address, SOCK_STREAM, 0666);
  if (!listener) return std::unexpected("--stats-socket: " + listener.error().text);
  return StatsSocket(std::move(*listener));
}

void StatsSocket::answer(const std::string& line) {
  const UniqueFd asker(accept4(listener_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  // A line fits into any socket's buffer, and an asker that has gone needs no answer.
  if (asker) send(asker.get(), line.data(), line.size(), MSG_NOSIGNAL);
}

}  // namespace psp::proxy
