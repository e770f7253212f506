// SPDX-License-Identifier: Apache-2.0
//
// TCP by way of getaddrinfo.
#include "dial.hh"

#include <cerrno>
#include <cstring>
#include <memory>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <optional>
#include <sys/socket.h>
#include <vector>

namespace psp::cat {
namespace {

struct AddrinfoDeleter {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, AddrinfoDeleter>;

std::unexpected<Failure> failure(std::string message) {
  return std::unexpected(Failure{kExitFailure, std::move(message)});
}

std::string to_text(const sockaddr* address, socklen_t size) {
  sockaddr_in mapped{};
  if (address->sa_family == AF_INET6) {
    const auto* in6 = reinterpret_cast<const sockaddr_in6*>(address);
    if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
      mapped.sin_family = AF_INET;
      mapped.sin_port = in6->sin6_port;
      std::memcpy(&mapped.sin_addr, in6->sin6_addr.s6_addr + 12, 4);
      address = reinterpret_cast<const sockaddr*>(&mapped);
      size = sizeof mapped;
    }
  }
  char host[NI_MAXHOST], port[NI_MAXSERV];
  if (getnameinfo(address, size, host, sizeof host, port, sizeof port,
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return "?";
  return address->sa_family == AF_INET6 ? fmt::format("[{}]:{}", host, port)
                                        : fmt::format("{}:{}", host, port);
}

std::expected<Addresses, Failure> resolve(const std::string& host, const std::string& port,
                                          int family, int flags) {
  addrinfo hints{};
  hints.ai_family = family;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host.empty() ? nullptr : host.c_str(), port.c_str(), &hints, &list);
  if (error != 0)
    return failure(fmt::format("cannot resolve {}{}{}: {}", host, host.empty() ? "" : " ", port,
                               error == EAI_SYSTEM ? std::strerror(errno) : gai_strerror(error)));
  return Addresses(list);
}

// Small messages go back and forth before the bulk: none must wait for an acknowledgement.
void set_nodelay(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

// try_connect gives the connected socket, or an errno.
std::expected<UniqueFd, int> try_connect(const addrinfo& to, const Deadline& deadline) {
  UniqueFd fd(socket(to.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, to.ai_protocol));
  if (fd.get() < 0) return std::unexpected(errno);
  if (connect(fd.get(), to.ai_addr, to.ai_addrlen) != 0) {
    if (errno != EINPROGRESS) return std::unexpected(errno);
    if (!deadline.wait(fd.get(), POLLOUT)) return std::unexpected(ETIMEDOUT);
    int error = 0;
    socklen_t size = sizeof error;
    if (getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
    if (error != 0) return std::unexpected(error);
  }
  set_nodelay(fd.get());
  return fd;
}

// listen_on gives the listening socket, or an errno.
std::expected<UniqueFd, int> listen_on(const sockaddr* address, socklen_t size, bool v6_only) {
  UniqueFd fd(socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (fd.get() < 0) return std::unexpected(errno);
  const int on = 1, v6 = v6_only;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (address->sa_family == AF_INET6)
    setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &v6, sizeof v6);
  if (bind(fd.get(), address, size) != 0 || listen(fd.get(), SOMAXCONN) != 0)
    return std::unexpected(errno);
  return fd;
}

std::expected<UniqueFd, Failure> make_listener(const Options& options) {
  // Without a host: every IPv6 address and with it every IPv4 address, or where there is no IPv6
  // every IPv4 address.
  const bool any = options.host.empty();
  const int family = any && options.family == AF_UNSPEC ? AF_INET6 : options.family;
  auto list = resolve(options.host, options.port, family, AI_PASSIVE);
  if (!list && !any) return std::unexpected(list.error());
  int error = EAFNOSUPPORT;
  for (const addrinfo* a = list ? list->get() : nullptr; a != nullptr; a = a->ai_next) {
    auto fd = listen_on(a->ai_addr, a->ai_addrlen, options.family == AF_INET6 || !any);
    if (fd) return std::move(*fd);
    error = fd.error();
  }
  if (any && options.family == AF_UNSPEC && error == EAFNOSUPPORT) {
    list = resolve("", options.port, AF_INET, AI_PASSIVE);
    if (!list) return std::unexpected(list.error());
    auto fd = listen_on(list->get()->ai_addr, list->get()->ai_addrlen, false);
    if (fd) return std::move(*fd);
    error = fd.error();
  }
  return std::unexpected(
      Failure{error == EACCES || error == EPERM ? kExitPermission : kExitFailure,
              fmt::format("cannot listen on {}{}{}: {}", options.host, any ? "port " : " port ",
                          options.port, std::strerror(error))});
}

// Caller is a connection that has not said a word yet.
struct Caller {
  Connection connection;
  Deadline deadline;
};

// accept_caller takes one more; without room the one that has been silent longest goes.
std::expected<void, Failure> accept_caller(int listener, const Options& options,
                                           std::vector<Caller>& callers) {
  constexpr std::size_t kCallersMax = 64;
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  auto* any = reinterpret_cast<sockaddr*>(&address);
  UniqueFd fd(accept4(listener, any, &size, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!fd && (errno == EINTR || errno == ECONNABORTED || errno == EAGAIN)) return {};
  if (!fd) return failure(fmt::format("cannot accept a connection: {}", std::strerror(errno)));
  set_nodelay(fd.get());
  if (callers.size() == kCallersMax) callers.erase(callers.begin());
  callers.push_back({{std::move(fd), to_text(any, size)}, Deadline(options.timeout)});
  return {};
}

// speaker takes the first that has said something out of `callers`, and drops those that have gone
// without a word or whose time is up.
std::optional<Connection> speaker(std::vector<Caller>& callers) {
  for (auto next = callers.begin(); next != callers.end();) {
    char octet = 0;
    const ssize_t n = recv(next->connection.fd.get(), &octet, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n > 0) return std::move(next->connection);
    const bool waits = n < 0 && (errno == EAGAIN || errno == EINTR) && next->deadline.left() > 0;
    next = waits ? next + 1 : callers.erase(next);
  }
  return std::nullopt;
}

// wait_for_any waits until the listener or a caller has something, or a caller's time is up.
void wait_for_any(int listener, const std::vector<Caller>& callers) {
  std::vector<pollfd> all{{listener, POLLIN, 0}};
  int patience = -1;
  for (const Caller& caller : callers) {
    all.push_back({caller.connection.fd.get(), POLLIN, 0});
    const int left = caller.deadline.left();
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

std::expected<Connection, Failure> dial(const Options& options, const Deadline& deadline) {
  const auto list = resolve(options.host, options.port, options.family, AI_ADDRCONFIG);
  if (!list) return std::unexpected(list.error());
  std::string tried;
  for (const addrinfo* a = list->get(); a != nullptr; a = a->ai_next) {
    const std::string address = to_text(a->ai_addr, a->ai_addrlen);
    auto fd = try_connect(*a, deadline);
    if (fd) return Connection{std::move(*fd), address};
    tried += fmt::format("{}{}: {}", tried.empty() ? "" : "; ", address, std::strerror(fd.error()));
    if (deadline.left() == 0) break;
  }
  return failure(
      fmt::format("cannot connect to {} ({}); does psp-cat -l run there?", options.host, tried));
}

std::expected<Connection, Failure> answer(const Options& options, const Report& report) {
  const auto listener = make_listener(options);
  if (!listener) return std::unexpected(listener.error());
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  auto* any = reinterpret_cast<sockaddr*>(&address);
  if (getsockname(listener->get(), any, &size) == 0)
    report.notice("listening on " + to_text(any, size));
  std::vector<Caller> callers;
  for (;;) {
    wait_for_any(listener->get(), callers);
    if (auto done = accept_caller(listener->get(), options, callers); !done)
      return std::unexpected(done.error());
    if (auto peer = speaker(callers)) return std::move(*peer);
  }
}

}  // namespace psp::cat
