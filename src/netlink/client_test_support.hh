// SPDX-License-Identifier: Apache-2.0
//
// A pspd without packets for the tests of Client and of the C interface: a Server behind a real
// SOCK_SEQPACKET listener with real descriptors passed, and the ways in which it can fail a client.
//
// Threading: Daemon serves in one thread of its own; the test looks at what it noted only after the
// answer that followed, or under the mutex.
#pragma once

#include <arpa/inet.h>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <mutex>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>
#include <utility>

#include "base/unique_fd.hh"
#include "netlink/client.hh"
#include "netlink/credentials.hh"

#include "test_support.hh"

namespace psp::netlink::testing {

inline std::string unique_name() {
  static std::atomic<int> next{0};
  return "@softpsp-test-" + std::to_string(::getpid()) + "-" + std::to_string(next++);
}

inline UniqueFd listen_at(const std::string& name) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, name.data(), name.size());
  address.sun_path[0] = '\0';
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::listen(fd.get(), 8) != 0)
    return UniqueFd();
  return fd;
}

// CookieSockets tells real sockets apart, and has them routed to the device.
class CookieSockets final : public device::SocketOps {
 public:
  std::vector<std::uint64_t> rx_cookies, tx_cookies;
  std::uint32_t route_ifindex = 7;

  device::Result<device::SocketInfo> examine(int fd) override {
    int protocol = 0;
    socklen_t size = sizeof protocol;
    if (::getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) != 0)
      return device::fail(errno);
    if (protocol != IPPROTO_TCP)
      return device::fail(EOPNOTSUPP, "Unsupported socket family and type", device::Field::kSockFd);
    device::SocketInfo info;
    size = sizeof info.cookie;
    ::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &info.cookie, &size);
    info.route_ifindex = route_ifindex;
    info.established = true;
    return info;
  }
  device::Result<void> rx_attach(int, const device::Association& association) override {
    rx_cookies.push_back(association.cookie);
    return {};
  }
  device::Result<device::TxSwitch> tx_attach(int, const device::Association& association) override {
    tx_cookies.push_back(association.cookie);
    return {};
  }
};

// Daemon is a pspd without packets.
class Daemon {
 public:
  enum class Manner { kAnswer, kDieAtRequest, kHang, kGarbage };

  explicit Daemon(Manner manner = Manner::kAnswer, std::optional<bool> net_admin = true)
      : manner_(manner),
        net_admin_(net_admin),
        listener_(listen_at(name_)),
        stop_(::eventfd(0, EFD_CLOEXEC)) {
    driver.next_spi = 0x101;
    core.set_notifier(&server);
    server.set_multicast([this](std::uint32_t group, std::uint64_t, const Datagram& datagram) {
      for (auto& peer : peers_)
        if ((peer->caller.groups & group) != 0)
          ::send(peer->fd.get(), datagram.data(), datagram.size(), MSG_NOSIGNAL);
    });
    (void)core.add_device({0, 7}, "eth0", VersionSet::all(), driver);
    inspector.info.version = "0.1.0";
    thread_ = std::thread([this] { run(); });
  }
  ~Daemon() {
    const std::uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof one);
    thread_.join();
  }
  const std::string& name() const { return name_; }
  // set_netns moves all clients into that namespace.
  void set_netns(std::uint64_t netns) {
    for (auto& peer : peers_) peer->caller.netns = netns;
  }
  // with runs `act` while no request is being served.
  template <typename Act>
  void with(Act&& act) {
    const std::lock_guard lock(mutex_);
    act();
  }

  CookieSockets sockets;
  device::FakeDriver driver;
  ModelInspector inspector;
  std::function<void()> between_parts;  // of the next dump, once
  FakeNetdevs netdevs;
  device::Core core{sockets, &netdevs};
  Server server{core, &inspector};

 private:
  struct Peer {
    UniqueFd fd;
    Caller caller;
  };

  void run() {
    for (;;) {
      std::vector<pollfd> fds = {{stop_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
      for (const auto& peer : peers_) fds.push_back({peer->fd.get(), POLLIN, 0});
      ::poll(fds.data(), fds.size(), -1);
      if (fds[0].revents != 0) return;
      const std::lock_guard lock(mutex_);
      for (std::size_t i = 2; i < fds.size(); ++i)
        if (fds[i].revents != 0 && !serve(*peers_[i - 2])) peers_[i - 2]->fd = UniqueFd();
      std::erase_if(peers_, [](const auto& peer) { return !peer->fd; });
      if (fds[1].revents != 0) accept_one();
    }
  }
  void accept_one() {
    auto peer = std::make_unique<Peer>();
    peer->caller.paced = true;
    peer->fd = UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    peer->caller.net_admin = net_admin_ ? *net_admin_ : peer_has_net_admin(peer->fd.get());
    peers_.push_back(std::move(peer));
  }
  bool serve(Peer& peer) {
    std::vector<std::uint8_t> buffer(65536);
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    iovec data = {buffer.data(), buffer.size()};
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t got = ::recvmsg(peer.fd.get(), &message, MSG_CMSG_CLOEXEC);
    if (got <= 0) return false;
    UniqueFd attached;
    if (const cmsghdr* rights = CMSG_FIRSTHDR(&message)) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(rights), sizeof fd);
      attached = UniqueFd(fd);
    }
    const auto request = std::span(buffer).first(static_cast<std::size_t>(got));
    // Resolving names works, so that connect() succeeds; what comes then is failed.
    const bool resolving =
        reinterpret_cast<const nlmsghdr*>(buffer.data())->nlmsg_type == GENL_ID_CTRL;
    if (!resolving && manner_ == Manner::kDieAtRequest) return false;
    if (!resolving && manner_ == Manner::kHang) return true;
    std::vector<Datagram> out;
    server.handle(peer.caller, request, attached.get(), out);
    while (peer.caller.dump) {
      if (between_parts) std::exchange(between_parts, {})();
      server.resume(peer.caller, out);
    }
    if (!resolving && manner_ == Manner::kGarbage)
      for (Datagram& answer : out) std::fill(answer.begin(), answer.begin() + 4, 0xff);
    for (const Datagram& answer : out)
      ::send(peer.fd.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
    if (!resolving && manner_ == Manner::kGarbage) return false;
    return true;
  }

  const std::string name_ = unique_name();
  Manner manner_;
  std::optional<bool> net_admin_;
  UniqueFd listener_, stop_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::mutex mutex_;
  std::thread thread_;
};

// TcpPair is a connection over loopback.
struct TcpPair {
  UniqueFd near, far;
  TcpPair() {
    UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    if (::bind(listener.get(), generic, size) != 0 || ::listen(listener.get(), 1) != 0) return;
    ::getsockname(listener.get(), generic, &size);
    near = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(near.get(), generic, size) != 0) return;
    far = UniqueFd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  }
};

inline std::uint64_t cookie_of(int fd) {
  std::uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  ::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size);
  return cookie;
}

inline Client connect_to(const Daemon& daemon) {
  auto client = Client::connect_daemon(daemon.name());
  EXPECT_TRUE(client) << client.error().message;
  return std::move(*client);
}

}  // namespace psp::netlink::testing
