// SPDX-License-Identifier: Apache-2.0
//
// What a socket says to recv, send and their like follows tcp_recvmsg and tcp_sendmsg: what has
// come is read first, then the peer's FIN, then the error, then EAGAIN. Nothing waits.
//
// OpenSSL asks one method for all random numbers of the process. Ours is set once; whoever is not
// inside gets those that it would have got without. The BIO calls itself a socket's, which is what
// the exchange demands of an SSL.
#include "app_socket.hh"

#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <cstring>
#include <netinet/tcp.h>
#include <openssl/rand.h>

#include "app_calls.h"

namespace psp::sim {
namespace {

AppSocket* inside = nullptr;

AppSocket* find(int fd) { return fd == AppSocket::kNumber ? inside : nullptr; }

// result makes of a negative errno what libc returns.
template <typename T>
T result(T value) {
  if (value >= 0) return value;
  errno = static_cast<int>(-value);
  return -1;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
int random_octets(unsigned char* out, int size) {
  if (inside == nullptr) return RAND_OpenSSL()->bytes(out, size);
  inside->random().fill({out, static_cast<std::size_t>(size)});
  return 1;
}

int random_status() { return 1; }

void take_random_numbers() {
  static const RAND_METHOD method{.seed = nullptr,
                                  .bytes = random_octets,
                                  .cleanup = nullptr,
                                  .add = nullptr,
                                  .pseudorand = random_octets,
                                  .status = random_status};
  static const int set = RAND_set_rand_method(&method);
  (void)set;
}
#pragma GCC diagnostic pop

int bio_write(BIO* bio, const char* octets, int size) {
  BIO_clear_retry_flags(bio);
  const ssize_t sent = app_send(AppSocket::kNumber, octets, static_cast<std::size_t>(size), 0);
  if (sent < 0 && errno == EAGAIN) BIO_set_retry_write(bio);
  return static_cast<int>(sent);
}

int bio_read(BIO* bio, char* out, int size) {
  BIO_clear_retry_flags(bio);
  const ssize_t got = app_recv(AppSocket::kNumber, out, static_cast<std::size_t>(size), 0);
  if (got < 0 && errno == EAGAIN) BIO_set_retry_read(bio);
  if (got == 0) BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
  return static_cast<int>(got);
}

long bio_control(BIO* bio, int what, long /*number*/, void* out) {
  switch (what) {
    case BIO_C_GET_FD:
      if (out != nullptr) *static_cast<int*>(out) = AppSocket::kNumber;
      return AppSocket::kNumber;
    case BIO_CTRL_EOF:
      return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0;
    case BIO_CTRL_FLUSH:
    case BIO_CTRL_DUP:
      return 1;
    default:
      return 0;
  }
}

int put_address(const Address& from, unsigned family, std::uint16_t port, sockaddr* to,
                socklen_t* size) {
  if (family == 4) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    std::memcpy(&address.sin_addr, from.octets.data(), 4);
    std::memcpy(to, &address, std::min<std::size_t>(*size, sizeof address));
    *size = sizeof address;
    return 0;
  }
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(port);
  std::memcpy(&address.sin6_addr, from.octets.data(), 16);
  std::memcpy(to, &address, std::min<std::size_t>(*size, sizeof address));
  *size = sizeof address;
  return 0;
}

}  // namespace

AppSocket::AppSocket(Kernel& kernel, std::shared_ptr<Tcp> socket, Random random)
    : kernel_(kernel), socket_(std::move(socket)), random_(random) {
  take_random_numbers();
}

BIO* AppSocket::bio() {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_TYPE_SOCKET, "a modelled socket");
    BIO_meth_set_write(made, bio_write);
    BIO_meth_set_read(made, bio_read);
    BIO_meth_set_ctrl(made, bio_control);
    return made;
  }();
  BIO* const bio = BIO_new(method);
  BIO_set_init(bio, 1);
  return bio;
}

AppSocket::Inside::Inside(AppSocket& socket) { inside = &socket; }
AppSocket::Inside::~Inside() { inside = nullptr; }

ssize_t AppSocket::send(std::span<const std::uint8_t> octets) {
  if (socket_->error != 0) return -socket_->error;
  if (socket_->state != PSP_TCP_ESTABLISHED && socket_->state != Tcp::kCloseWait) return -EPIPE;
  const std::size_t sent = socket_->write(octets);
  if (sent == 0 && !octets.empty()) return -EAGAIN;
  if (on_sent) on_sent(sent);
  return static_cast<ssize_t>(sent);
}

ssize_t AppSocket::receive(std::span<std::uint8_t> out, int flags) {
  const std::uint32_t from = socket_->copied_seq;
  const bool only_look = (flags & MSG_PEEK) != 0;
  const Octets octets = only_look ? socket_->peek(out.size()) : socket_->read(out.size());
  std::ranges::copy(octets, out.begin());
  if (!octets.empty()) {
    if (on_read && !only_look) on_read(from, octets);
    return static_cast<ssize_t>(octets.size());
  }
  if (socket_->at_end()) return 0;
  if (socket_->error != 0) return -socket_->error;
  return socket_->is_over() ? 0 : -EAGAIN;
}

int AppSocket::option(int level, int name) const {
  const auto found = options_.find({level, name});
  return found == options_.end() ? 0 : found->second;
}

int AppSocket::set_option(int level, int name, int value) {
  const int done = kernel_.setsockopt(*socket_, level, name, &value, sizeof value);
  if (done != 0 && done != -ENOPROTOOPT) return done;  // the kernel itself knows none of these
  options_[{level, name}] = value;
  return 0;
}

}  // namespace psp::sim

using psp::sim::AppSocket;

int app_getsockopt(int fd, int level, int name, void* value, socklen_t* size) {
  const AppSocket* app = psp::sim::find(fd);
  if (app == nullptr) return psp::sim::result(-EBADF);
  const bool known = (level == SOL_SOCKET && name == SO_OOBINLINE) ||
                     (level == IPPROTO_TCP && (name == TCP_NODELAY || name == TCP_ULP));
  if (!known) return psp::sim::result(-ENOPROTOOPT);
  const int number = app->option(level, name);
  *size = name == TCP_ULP ? 0 : sizeof number;
  std::memcpy(value, &number, *size);
  return 0;
}

int app_setsockopt(int fd, int level, int name, const void* value, socklen_t size) {
  AppSocket* app = psp::sim::find(fd);
  if (app == nullptr) return psp::sim::result(-EBADF);
  int number = 0;
  if (size != sizeof number) return psp::sim::result(-EINVAL);
  std::memcpy(&number, value, sizeof number);
  return psp::sim::result(app->set_option(level, name, number));
}

int app_getsockname(int fd, sockaddr* address, socklen_t* size) {
  AppSocket* app = psp::sim::find(fd);
  if (app == nullptr) return psp::sim::result(-EBADF);
  const auto& tuple = app->socket().tuple;
  return psp::sim::put_address(tuple.local, tuple.family, tuple.local_port, address, size);
}

int app_getpeername(int fd, sockaddr* address, socklen_t* size) {
  AppSocket* app = psp::sim::find(fd);
  if (app == nullptr) return psp::sim::result(-EBADF);
  if (app->socket().is_over()) return psp::sim::result(-ENOTCONN);
  const auto& tuple = app->socket().tuple;
  return psp::sim::put_address(tuple.remote, tuple.family, tuple.remote_port, address, size);
}

int app_ioctl(int fd, unsigned long request, int* value) {
  AppSocket* app = psp::sim::find(fd);
  if (app == nullptr) return psp::sim::result(-EBADF);
  if (request != FIONREAD) return psp::sim::result(-ENOTTY);
  *value = static_cast<int>(app->socket().readable());
  return 0;
}

ssize_t app_send(int fd, const void* octets, size_t size, int /*flags*/) {
  AppSocket* app = psp::sim::find(fd);
  if (app == nullptr) return psp::sim::result<ssize_t>(-EBADF);
  return psp::sim::result(app->send({static_cast<const std::uint8_t*>(octets), size}));
}

ssize_t app_recv(int fd, void* octets, size_t size, int flags) {
  AppSocket* app = psp::sim::find(fd);
  if (app == nullptr) return psp::sim::result<ssize_t>(-EBADF);
  return psp::sim::result(app->receive({static_cast<std::uint8_t*>(octets), size}, flags));
}
