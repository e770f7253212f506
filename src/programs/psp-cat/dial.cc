// SPDX-License-Identifier: Apache-2.0
//
// TCP by way of getaddrinfo: a client tries one address after the other, a listener takes every
// address of both families unless it was told one.
//
// A listener waits for one peer, whom anybody could keep out by connecting first. So it accepts all
// who come, up to a bound, and takes the first who says something; the others are hung up on when
// their time is up, or when there is no room, the one that has waited longest first. Nothing is
// read from them: who speaks is only peeked at.
#include "dial.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <optional>
#include <sys/socket.h>
#include <thread>
#include <vector>

#include "base/shortage.hh"
#include "base/socket_address.hh"
#include "base/socket_options.hh"

namespace psp::cat {
namespace {

std::unexpected<Failure> failure(std::string message) {
  return std::unexpected(Failure{kExitFailure, std::move(message)});
}

std::expected<std::vector<SocketAddress>, Failure> find(const Options& options, int family,
                                                        int flags) {
  auto found = resolve(options.host, options.port, family, flags);
  if (!found) return failure(std::move(found.error()));
  return std::move(*found);
}

// Small messages go back and forth before the bulk: none must wait for an acknowledgement.
void set_nodelay(int fd) { (void)set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1); }

// try_connect gives the connected socket, or an errno.
std::expected<UniqueFd, int> try_connect(const SocketAddress& to, const Deadline& deadline) {
  UniqueFd fd(socket(to.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (fd.get() < 0) return std::unexpected(errno);
  if (connect(fd.get(), to.get(), to.size) != 0) {
    if (errno != EINPROGRESS) return std::unexpected(errno);
    if (!deadline.wait(fd.get(), POLLOUT)) return std::unexpected(ETIMEDOUT);
    if (const int error = pending_error(fd.get())) return std::unexpected(error);
  }
  set_nodelay(fd.get());
  return fd;
}

// listen_on gives the listening socket, or an errno.
std::expected<UniqueFd, int> listen_on(const SocketAddress& address, bool v6_only) {
  UniqueFd fd(socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (fd.get() < 0) return std::unexpected(errno);
  (void)set_option(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (address.family() == AF_INET6)
    (void)set_option(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, v6_only ? 1 : 0);
  if (bind(fd.get(), address.get(), address.size) != 0 || listen(fd.get(), SOMAXCONN) != 0)
    return std::unexpected(errno);
  return fd;
}

std::expected<UniqueFd, Failure> make_listener(const Options& options) {
  // Without a host: every IPv6 address and with it every IPv4 address, or where there is no IPv6
  // every IPv4 address.
  const bool any = options.host.empty();
  const int family = any && options.family == AF_UNSPEC ? AF_INET6 : options.family;
  auto found = find(options, family, AI_PASSIVE);
  if (!found && !any) return std::unexpected(found.error());
  int error = EAFNOSUPPORT;
  for (const SocketAddress& address : found.value_or(std::vector<SocketAddress>{})) {
    auto fd = listen_on(address, options.family == AF_INET6 || !any);
    if (fd) return std::move(*fd);
    error = fd.error();
  }
  if (any && options.family == AF_UNSPEC && error == EAFNOSUPPORT) {
    found = find(options, AF_INET, AI_PASSIVE);
    if (!found) return std::unexpected(found.error());
    auto fd = listen_on(found->front(), false);
    if (fd) return std::move(*fd);
    error = fd.error();
  }
  return std::unexpected(
      Failure{error == EACCES || error == EPERM ? kExitPermission : kExitFailure,
              fmt::format("cannot listen on {}{}{}: {}", options.host, any ? "port " : " port ",
                          options.port, std::strerror(error))});
}

// Silent is a connection that has not said a word yet.
struct Silent {
  Dialed connection;
  Deadline deadline;
};

// accept_caller takes one more; without room the one that has been silent longest goes.
std::expected<void, Failure> accept_caller(int listener, const Options& options,
                                           std::vector<Silent>& silent) {
  constexpr std::size_t kSilentMax = 64;
  SocketAddress from{.size = sizeof from.storage};
  UniqueFd fd(accept4(listener, from.get(), &from.size, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!fd && (errno == EINTR || errno == ECONNABORTED || errno == EAGAIN)) return {};
  if (!fd && is_shortage(errno)) {  // whoever waits there goes on waiting
    std::this_thread::sleep_for(kShortagePause);
    return {};
  }
  if (!fd) return failure(fmt::format("cannot accept a connection: {}", std::strerror(errno)));
  set_nodelay(fd.get());
  if (silent.size() == kSilentMax) silent.erase(silent.begin());
  silent.push_back({{std::move(fd), from.text()}, Deadline(options.timeout)});
  return {};
}

// speaker takes the first that has said something out of `silent`, and drops those that have gone
// without a word or whose time is up.
std::optional<Dialed> speaker(std::vector<Silent>& silent) {
  for (auto next = silent.begin(); next != silent.end();) {
    char octet = 0;
    const ssize_t n = recv(next->connection.fd.get(), &octet, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n > 0) return std::move(next->connection);
    const bool waits = n < 0 && (errno == EAGAIN || errno == EINTR) && next->deadline.left() > 0;
    next = waits ? next + 1 : silent.erase(next);
  }
  return std::nullopt;
}

// wait_for_any waits until the listener or a silent one has something, or the time of one is up.
void wait_for_any(int listener, const std::vector<Silent>& silent) {
  std::vector<pollfd> all{{listener, POLLIN, 0}};
  int patience = -1;
  for (const Silent& one : silent) {
    all.push_back({one.connection.fd.get(), POLLIN, 0});
    const int left = one.deadline.left();
    patience = patience < 0 ? left : std::min(patience, left);
  }
  // An interrupted or failed wait is only an early look.
  (void)poll(all.data(), all.size(), patience);
}

}  // namespace

int Deadline::left() const {
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(end_ - std::chrono::steady_clock::now());
  return static_cast<int>(std::max<std::int64_t>(0, left.count()));
}

bool Deadline::wait(int fd, short events) const {
  for (;;) {
    const int ms = left();
    if (ms == 0) return false;  // also where there is always something: a peer that never stops
    pollfd p{fd, events, 0};
    const int n = poll(&p, 1, ms);
    if (n > 0) return true;
    if (n == 0 || errno != EINTR) return false;
  }
}

std::expected<Dialed, Failure> dial(const Options& options, const Deadline& deadline) {
  const auto found = find(options, options.family, AI_ADDRCONFIG);
  if (!found) return std::unexpected(found.error());
  std::string tried;
  for (const SocketAddress& address : *found) {
    auto fd = try_connect(address, deadline);
    if (fd) return Dialed{std::move(*fd), address.text()};
    tried += fmt::format("{}{}: {}", tried.empty() ? "" : "; ", address.text(),
                         std::strerror(fd.error()));
    if (deadline.left() == 0) break;
  }
  return failure(
      fmt::format("cannot connect to {} ({}); does psp-cat -l run there?", options.host, tried));
}

std::expected<Dialed, Failure> answer(const Options& options, const Report& report) {
  const auto listener = make_listener(options);
  if (!listener) return std::unexpected(listener.error());
  SocketAddress here{.size = sizeof here.storage};
  if (getsockname(listener->get(), here.get(), &here.size) == 0)
    report.notice("listening on " + here.text());
  std::vector<Silent> silent;
  for (;;) {
    wait_for_any(listener->get(), silent);
    if (auto done = accept_caller(listener->get(), options, silent); !done)
      return std::unexpected(done.error());
    if (auto peer = speaker(silent)) return std::move(*peer);
  }
}

}  // namespace psp::cat
