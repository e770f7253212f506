// SPDX-License-Identifier: Apache-2.0
//
// An answer is one accept, one send and the end of the connection. Nothing is read from an asker
// and nobody is waited for: the main thread that answers also takes signals, and one line fits into
// the buffer of a socket that is new.
#include "stats_socket.hh"

#include <cerrno>
#include <sys/socket.h>

#include "base/shortage.hh"

namespace psp::proxy {

std::expected<StatsSocket, std::string> StatsSocket::open(const std::string& address) {
  // Anybody may ask whom the directory lets in: there are no secrets in a line of statistics.
  auto listener = SocketFile::listen_at(address, SOCK_STREAM, 0666);
  if (!listener) return std::unexpected("--stats-socket: " + listener.error().text);
  return StatsSocket(std::move(*listener));
}

bool StatsSocket::answer(const std::string& line) {
  const UniqueFd asker(accept4(listener_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!asker) return !is_shortage(errno);
  // A line fits into any socket's buffer, and an asker that has gone needs no answer.
  send(asker.get(), line.data(), line.size(), MSG_NOSIGNAL);
  return true;
}

}  // namespace psp::proxy
