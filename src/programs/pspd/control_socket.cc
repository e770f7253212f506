// SPDX-License-Identifier: Apache-2.0
#include "control_socket.hh"

#include <cerrno>
#include <cstring>
#include <deque>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <psp/netlink/credentials.hh>

namespace psp {
namespace {

constexpr std::size_t kDescriptorsMax = 4;  // more than a request can name: the rest is closed
constexpr auto kRetry = std::chrono::milliseconds(5);

struct Address {
  sockaddr_un name{};
  socklen_t length = 0;
};

std::expected<Address, std::string> address_of(const std::string& text) {
  Address address;
  address.name.sun_family = AF_UNIX;
  if (text.empty() || text.size() >= sizeof address.name.sun_path)
    return std::unexpected(fmt::format("'{}' is no address for the control socket", text));
  text.copy(address.name.sun_path, text.size());
  address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + text.size());
  if (text[0] == '@')
    address.name.sun_path[0] = '\0';
  else
    address.length++;
  return address;
}

// remove_dead unlinks a socket file that nobody listens on.
void remove_dead(const Address& address) {
  struct stat status;
  if (::stat(address.name.sun_path, &status) != 0 || !S_ISSOCK(status.st_mode)) return;
  const UniqueFd probe(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address.name), address.length) !=
          0 &&
      errno == ECONNREFUSED)
    ::unlink(address.name.sun_path);
}

// take_descriptors owns every descriptor that came with a message, so that none stays behind.
std::vector<UniqueFd> take_descriptors(msghdr& message) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; i++) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      fds.emplace_back(fd);
    }
  }
  return fds;
}

}  // namespace

struct ControlSocket::Client {
  UniqueFd fd;
  netlink::Caller caller;
  std::deque<netlink::Datagram> answers;
  EventLoop::Source readable;
  EventLoop::Source retry;  // while answers wait
  bool gone = false;
};

ControlSocket::ControlSocket(EventLoop& loop, netlink::Server& server, UniqueFd listener,
                             std::string path)
    : loop_(loop),
      server_(server),
      listener_(std::move(listener)),
      path_(std::move(path)),
      request_(std::make_unique<std::uint8_t[]>(kRequestMax)) {
  accept_ = loop_.on_readable(listener_.get(), [this] { accept(); });
  server_.set_multicast(
      [this](std::uint32_t group_bit, std::uint64_t netns, const netlink::Datagram& message) {
        multicast(group_bit, netns, message);
      });
}

ControlSocket::~ControlSocket() {
  server_.set_multicast({});
  if (!path_.empty()) ::unlink(path_.c_str());
}

std::expected<std::unique_ptr<ControlSocket>, std::string> ControlSocket::listen(
    EventLoop& loop, netlink::Server& server, const std::string& text) {
  const auto address = address_of(text);
  if (!address) return std::unexpected(address.error());
  const bool abstract = text[0] == '@';
  if (!abstract) remove_dead(*address);
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd ||
      ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address->name), address->length) != 0 ||
      ::listen(fd.get(), 128) != 0)
    return std::unexpected(
        errno == EADDRINUSE
            ? fmt::format("another pspd listens at {}: stop it, or choose another --socket", text)
            : fmt::format("cannot listen at {}: {}", text, std::strerror(errno)));
  if (!abstract) ::chmod(text.c_str(), 0666);
  return std::unique_ptr<ControlSocket>(
      new ControlSocket(loop, server, std::move(fd), abstract ? std::string() : text));
}

void ControlSocket::accept() {
  clients_.remove_if([](const Client& client) { return client.gone; });
  UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd || clients_.size() >= kClientsMax) return;
  Client& client = clients_.emplace_back();
  client.fd = std::move(fd);
  client.caller.net_admin = netlink::peer_has_net_admin(client.fd.get());
  // An accepted socket belongs to the namespace of the socket that connected.
  socklen_t length = sizeof client.caller.netns;
  ::getsockopt(client.fd.get(), SOL_SOCKET, SO_NETNS_COOKIE, &client.caller.netns, &length);
  client.readable = loop_.on_readable(client.fd.get(), [this, &client] { serve(client); });
}

void ControlSocket::drop(Client& client) {
  // Called from the client's own callback: what runs is kept until the next accept.
  client.gone = true;
  client.readable = {};
  client.retry = {};
  client.answers.clear();
  client.fd.reset();
}

void ControlSocket::serve(Client& client) {
  iovec part{request_.get(), kRequestMax};
  alignas(cmsghdr) char control[CMSG_SPACE(kDescriptorsMax * sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t n = ::recvmsg(client.fd.get(), &message, MSG_CMSG_CLOEXEC);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  // A request that is cut off cannot be answered as netlink would: its sender is no netlink client.
  if (n <= 0 || message.msg_flags & MSG_TRUNC) {
    if (n > 0)
      for (UniqueFd& fd : take_descriptors(message)) closer_.take(std::move(fd));
    return drop(client);
  }
  std::vector<netlink::Datagram> answers;
  auto fds = take_descriptors(message);
  server_.handle(client.caller, {request_.get(), static_cast<std::size_t>(n)},
                 fds.empty() ? -1 : fds.front().get(), answers);
  // Closed before the caller hears: it may close its own and expect a FIN.
  for (UniqueFd& fd : fds) closer_.take(std::move(fd));
  netlink::wipe({request_.get(), static_cast<std::size_t>(n)});
  for (auto& answer : answers) client.answers.push_back(std::move(answer));
  if (!flush(client)) return drop(client);
  if (client.answers.empty()) return;
  // Answers wait for the client; until they are gone it is not heard.
  client.readable = {};
  client.retry = loop_.every(kRetry, [this, &client] {
    if (!flush(client)) return drop(client);
    if (!client.answers.empty()) return;
    client.retry = {};
    client.readable = loop_.on_readable(client.fd.get(), [this, &client] { serve(client); });
  });
}

bool ControlSocket::flush(Client& client) {
  while (!client.answers.empty()) {
    netlink::Datagram& answer = client.answers.front();
    const ssize_t n = ::send(client.fd.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    netlink::wipe(answer);
    client.answers.pop_front();
  }
  return true;
}

void ControlSocket::multicast(std::uint32_t group_bit, std::uint64_t netns,
                              const netlink::Datagram& message) {
  for (Client& client : clients_)
    if (!client.gone && client.caller.netns == netns && client.caller.groups & group_bit)
      (void)::send(client.fd.get(), message.data(), message.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace psp
