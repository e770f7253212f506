// SPDX-License-Identifier: Apache-2.0
//
// Accepting has its turns as a process of nobody's has, so that many who connect cost those who are
// connected no more than one client would. It rests while there is nothing to accept with, and
// while a user's connections come faster than they can be closed.
#include "control_socket.hh"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <sys/socket.h>
#include <utility>

#include "base/shortage.hh"

namespace psp::control {
namespace {

constexpr auto kNobody = static_cast<uid_t>(-1);  // whose time it takes to accept

std::unexpected<std::string> failed(const std::string& address, int error) {
  return std::unexpected(fmt::format("cannot listen at {}: {}", address, std::strerror(error)));
}

}  // namespace

ControlSocket::ControlSocket(Clients& clients, SocketFile listener)
    : clients_(clients),
      listener_(std::move(listener)),
      turn_(clients_.turns().enter(kNobody, listener_.fd())) {
  turn_.on_stamp = [this](FairShare::Stamp stamp) { accept_.set_order(stamp); };
}

std::expected<std::unique_ptr<ControlSocket>, std::string> ControlSocket::listen(
    Clients& clients, const std::string& address) {
  // Anybody may ask; who may do what is the server's to decide.
  auto listener = SocketFile::listen_at(address, SOCK_SEQPACKET, 0666);
  if (!listener)
    return std::unexpected(
        listener.error().taken
            ? fmt::format("another pspd listens at {}: stop it, or choose another --socket",
                          address)
            : listener.error().text);
  if (clients.error() != 0) return failed(address, clients.error());
  std::unique_ptr<ControlSocket> control(new ControlSocket(clients, std::move(*listener)));
  if (const int error = control->watch(); error != 0) return failed(address, error);
  return control;
}

// watch begins to accept. Returns an errno.
int ControlSocket::watch() {
  auto accept = clients_.loop().try_on_readable(
      listener_.fd(), [this] { clients_.turns().take(turn_, [this] { accept_one(); }); });
  auto pause = clients_.loop().try_every(kShortagePause, [this] { go_on(); });
  if (!accept || !pause) return accept ? pause.error() : accept.error();
  accept_ = std::move(*accept);
  accept_.set_order(turn_.stamp);
  pause_ = std::move(*pause);
  pause_.enable(false);
  return 0;
}

// go_on accepts again after a pause, which is longer while there is no memory to watch with.
void ControlSocket::go_on() {
  if (!accept_.enable(true)) return;
  pause_.enable(false);
  if (held_) accept_one();
}

void ControlSocket::accept_one() {
  UniqueFd fd = std::move(held_);
  if (!fd) fd = UniqueFd(::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (fd) {
    held_ = clients_.welcome(std::move(fd));
    if (!held_) return;
  } else if (!is_shortage(errno)) {
    return;
  }
  accept_.enable(false);
  pause_.enable(true);
}

}  // namespace psp::control
