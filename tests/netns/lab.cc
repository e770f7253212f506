// SPDX-License-Identifier: Apache-2.0
//
// Hosts and sockets, made of ip(8) and poll. The end of the lab stops each pspd in order and cleans
// up after those that were killed; what fails in that fails the test, so no case hides what it has
// left behind for the next.
#include "lab.hh"

#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <iostream>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdexcept>
#include <sys/socket.h>
#include <unistd.h>

namespace psp::lab {
namespace {

struct SocketAddress {
  sockaddr_storage name{};
  socklen_t length = 0;
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&name); }
};

SocketAddress socket_address(const std::string& text, std::uint16_t port, bool mapped) {
  SocketAddress address;
  if (text.find(':') == std::string::npos && !mapped) {
    auto* v4 = reinterpret_cast<sockaddr_in*>(&address.name);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    ::inet_pton(AF_INET, text.c_str(), &v4->sin_addr);
    address.length = sizeof *v4;
    return address;
  }
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.name);
  v6->sin6_family = AF_INET6;
  v6->sin6_port = htons(port);
  ::inet_pton(AF_INET6, (mapped ? "::ffff:" + text : text).c_str(), &v6->sin6_addr);
  address.length = sizeof *v6;
  return address;
}

SocketAddress name_of(int fd) {
  SocketAddress address;
  address.length = sizeof address.name;
  if (::getsockname(fd, address.get(), &address.length) != 0) throw failure("getsockname");
  return address;
}

std::uint16_t port_of(const SocketAddress& address) {
  return ntohs(reinterpret_cast<const sockaddr_in*>(&address.name)->sin_port);
}

Octets wire_address(const SocketAddress& address) {
  if (address.name.ss_family == AF_INET) {
    const auto* p = reinterpret_cast<const std::uint8_t*>(
        &reinterpret_cast<const sockaddr_in*>(&address.name)->sin_addr);
    return {p, p + 4};
  }
  const auto& v6 = reinterpret_cast<const sockaddr_in6*>(&address.name)->sin6_addr;
  return {v6.s6_addr + (IN6_IS_ADDR_V4MAPPED(&v6) ? 12 : 0), v6.s6_addr + 16};
}

UniqueFd tcp_socket(int family) {
  UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) throw failure("socket");
  const int on = 1;
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0)
    throw failure("SO_REUSEADDR");
  return fd;
}

bool wait_readable(int fd, std::chrono::milliseconds patience) {
  pollfd ready{fd, POLLIN, 0};
  return ::poll(&ready, 1, static_cast<int>(patience.count())) > 0;
}

}  // namespace

std::string kind_name(Kind kind) {
  return kind == Kind::kIpv4 ? "Ipv4" : kind == Kind::kIpv6 ? "Ipv6" : "Ipv4Mapped";
}

Lab::Lab() : Lab(Options{}) {}

Lab::Lab(const Options& options) {
  for (const char* where : {"all", "default"})
    write_sysctl(middle_, fmt::format("net/ipv6/conf/{}/disable_ipv6", where), "1");
  for (unsigned number = 0; number < options.links; number++) link(number, options.mtu);
}

void Lab::link(unsigned number, unsigned mtu) {
  const auto netns_path = [](const Netns& netns) {
    return fmt::format("/proc/{}/fd/{}", ::getpid(), netns.fd());
  };
  for (const From side : {From::kA, From::kB}) {
    const std::string end = fmt::format("{}{}", side == From::kA ? 'a' : 'b', number);
    const std::string dev = fmt::format("eth{}", number);
    const int own = side == From::kA ? 1 : 2;
    middle_.sh(
        fmt::format("ip link add {0} mtu {3} arp off type veth peer name {1} mtu {3} netns {2} && "
                    "ip link set {0} up",
                    end, dev, netns_path(ns(side)), mtu));
    ns(side).sh(
        fmt::format("ip link set {0} address 02:00:00:00:00:0{1} && "
                    "ip addr add 10.{2}.0.{1}/24 dev {0} && "
                    "ip addr add fd{2}::{1}/64 dev {0} nodad && ip link set {0} up && "
                    "ip neigh add 10.{2}.0.{3} lladdr 02:00:00:00:00:0{3} dev {0} && "
                    "ip neigh add fd{2}::{3} lladdr 02:00:00:00:00:0{3} dev {0}",
                    dev, own, 77 + number, 3 - own));
  }
  cables_.push_back(
      std::make_unique<Cable>(middle_, fmt::format("a{}", number), fmt::format("b{}", number)));
}

void Lab::set_mtu(unsigned mtu) {
  middle_.sh(fmt::format("ip link set a0 mtu {0} && ip link set b0 mtu {0}", mtu));
  for (const From side : {From::kA, From::kB})
    ns(side).sh(fmt::format("ip link set eth0 mtu {}", mtu));
}

Lab::~Lab() {
  for (const From side : {From::kA, From::kB}) {
    if (daemon(side)) stop(side);
    if (side == From::kA ? a_killed_ : b_killed_) clean_up(side);
  }
}

Pspd& Lab::start(From side, const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {"--dev", "eth0", "--enable", "all"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  daemon(side).reset();
  daemon(side).emplace(ns(side), arguments);
  if (!daemon(side)->wait_ready()) {
    const std::string log = daemon(side)->log();
    daemon(side).reset();
    throw std::runtime_error("pspd does not start: " + log);
  }
  (side == From::kA ? a_killed_ : b_killed_) = false;
  return *daemon(side);
}

int Lab::stop(From side) {
  if (daemon(side)->log().find("pspd: stopping\n") != std::string::npos)
    ADD_FAILURE() << "pspd was stopped before, and not by this test";
  const int status = daemon(side)->stop();
  if (status != 0) ADD_FAILURE() << "pspd ended with " << status;
  if (testing::Test::HasFailure())
    std::cerr << "pspd of " << (side == From::kA ? 'A' : 'B') << ":\n" << daemon(side)->log();
  daemon(side).reset();
  return status;
}

void Lab::kill(From side) {
  daemon(side)->kill();
  daemon(side).reset();
  (side == From::kA ? a_killed_ : b_killed_) = true;
}

void Lab::clean_up(From side) {
  Pspd cleaner(ns(side), {"--dev", "eth0", "--cleanup"});
  EXPECT_EQ(cleaner.wait(), 0) << cleaner.log();
  (side == From::kA ? a_killed_ : b_killed_) = false;
}

Client Lab::client(From side) {
  const InNetns inside(ns(side));
  auto client = Client::connect_daemon("@softpsp");
  if (!client) throw std::runtime_error(client.error().message);
  return std::move(*client);
}

std::string Lab::address(From side, Kind kind, unsigned link) {
  const int own = side == From::kA ? 1 : 2;
  return kind == Kind::kIpv6 ? fmt::format("fd{}::{}", 77 + link, own)
                             : fmt::format("10.{}.0.{}", 77 + link, own);
}

Connection Lab::connect(Kind kind, const Endpoints& endpoints) {
  const auto [a_port, b_port, link] = endpoints;
  const bool mapped = kind == Kind::kIpv4Mapped;
  const int family = kind == Kind::kIpv4 ? AF_INET : AF_INET6;
  const std::size_t mark = cable(link).mark();
  UniqueFd listener;
  Connection connection;
  {
    const InNetns inside(b_);
    listener = tcp_socket(family);
    auto address =
        socket_address(mapped ? "::" : Lab::address(From::kB, kind, link), b_port, false);
    if (::bind(listener.get(), address.get(), address.length) != 0 ||
        ::listen(listener.get(), 16) != 0)
      throw failure("listen");
  }
  {
    const InNetns inside(a_);
    connection.a = tcp_socket(family);
    auto own = socket_address(Lab::address(From::kA, kind, link), a_port, mapped);
    if (a_port != 0 && ::bind(connection.a.get(), own.get(), own.length) != 0)
      throw failure("bind");
    auto peer = socket_address(Lab::address(From::kB, kind, link), port_of(name_of(listener.get())),
                               mapped);
    if (::connect(connection.a.get(), peer.get(), peer.length) != 0) throw failure("connect");
  }
  if (!wait_readable(listener.get(), 5s)) throw std::runtime_error("nobody connects");
  connection.b.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  connection.flow = flow_of(connection.a.get(), connection.b.get(), cable(link), mark);
  return connection;
}

Flow Lab::flow_of(int a, int b, const Cable& cable, std::size_t mark) {
  Flow flow;
  flow.a_address = wire_address(name_of(a));
  flow.b_address = wire_address(name_of(b));
  flow.family = flow.a_address.size() == 4 ? 4 : 6;
  flow.a_port = port_of(name_of(a));
  flow.b_port = port_of(name_of(b));
  for (const From from : {From::kA, From::kB}) {
    const auto syn = cable.find(mark, [&](const Seen& seen) {
      return seen.from == from && of_flow(seen, flow) && seen.segment->flags & kSyn;
    });
    if (!syn) throw std::runtime_error("no SYN on the wire");
    (from == From::kA ? flow.a_isn : flow.b_isn) = syn->segment->seq;
  }
  return flow;
}

DaemonInfo Lab::daemon_info(From side) {
  Client asks = client(side);
  auto info = psp::daemon_info(asks);
  if (!info) throw std::runtime_error(info.error().message);
  return std::move(*info);
}

std::uint64_t Lab::drops(From side, const std::string& reason) {
  std::uint64_t sum = 0;
  for (const auto& device : daemon_info(side).devices)
    for (const auto& [name, count] : device.drops)
      if (name == reason) sum += count;
  return sum;
}

StatsInfo Lab::stats(From side) {
  const auto all = client(side).stats();
  if (!all || all->empty()) throw std::runtime_error("no statistics");
  return all->front();
}

std::optional<AssocInfo> Lab::association(From side, int fd) {
  std::uint64_t cookie = 0;
  socklen_t length = sizeof cookie;
  ::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length);
  const auto all = client(side).associations();
  if (!all) throw std::runtime_error(all.error().message);
  for (const AssocInfo& one : *all)
    if (one.cookie == cookie) return one;
  return std::nullopt;
}

Secured secure(Lab& lab, const Connection& connection, Version version) {
  return secure(lab.client(From::kA), lab.client(From::kB), connection, version);
}

Secured secure(Client a, Client b, const Connection& connection, Version version) {
  auto a_rx = a.rx_assoc(connection.a.get(), version);
  auto b_rx = b.rx_assoc(connection.b.get(), version);
  if (!a_rx || !b_rx) throw std::runtime_error((a_rx ? b_rx : a_rx).error().message);
  const auto a_tx = a.tx_assoc(connection.a.get(), version, b_rx->rx);
  const auto b_tx = b.tx_assoc(connection.b.get(), version, a_rx->rx);
  if (!a_tx || !b_tx) throw std::runtime_error((a_tx ? b_tx : a_tx).error().message);
  return {std::move(a_rx->rx), std::move(b_rx->rx)};
}

void send_all(int fd, const Octets& octets) {
  for (std::size_t at = 0; at < octets.size();) {
    const ssize_t n = ::send(fd, octets.data() + at, octets.size() - at, MSG_NOSIGNAL);
    if (n < 0) {
      ADD_FAILURE() << "send: " << std::strerror(errno);
      return;
    }
    at += static_cast<std::size_t>(n);
  }
}

Octets receive(int fd, std::size_t size, std::chrono::milliseconds patience) {
  Octets octets(size);
  std::size_t at = 0;
  while (at < size && wait_readable(fd, patience)) {
    const ssize_t n = ::recv(fd, octets.data() + at, size - at, MSG_DONTWAIT);
    if (n <= 0) break;
    at += static_cast<std::size_t>(n);
  }
  octets.resize(at);
  return octets;
}

Octets pending(int fd) { return receive(fd, 1 << 20, 0ms); }

int maxseg(int fd) {
  int value = 0;
  socklen_t length = sizeof value;
  if (::getsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &value, &length) != 0) throw failure("TCP_MAXSEG");
  return value;
}

bool at_end(int fd, std::chrono::milliseconds patience) {
  char octet;
  return wait_readable(fd, patience) && ::recv(fd, &octet, 1, MSG_DONTWAIT) == 0;
}

int socket_error(int fd, std::chrono::milliseconds patience) {
  pollfd ready{fd, 0, 0};
  if (::poll(&ready, 1, static_cast<int>(patience.count())) <= 0) return 0;
  int error = 0;
  socklen_t length = sizeof error;
  ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
  return error;
}

std::uint32_t send_window(int fd) {
  tcp_info info{};
  socklen_t length = sizeof info;
  if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) throw failure("TCP_INFO");
  return info.tcpi_snd_wnd;
}

void expect_nothing_in_clear(Lab& lab, const Flow& flow, std::size_t mark, const Octets& content,
                             std::size_t link) {
  const Octets start(
      content.begin(),
      content.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(content.size(), 256)));
  for (const Seen& seen : lab.cable(link).since(mark)) {
    ASSERT_FALSE(of_flow(seen, flow)) << "flags " << int{seen.segment->flags} << ", "
                                      << seen.segment->payload.size() << " octets in clear";
    // PSP packets are random; anything else must not carry a piece of the content.
    if (!seen.psp) {
      ASSERT_FALSE(holds_part(seen.octets, start));
    }
  }
}

}  // namespace psp::lab
