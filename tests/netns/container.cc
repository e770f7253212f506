// SPDX-License-Identifier: Apache-2.0
//
// The container is a process that does nothing but live in its namespaces, and dies with the test.
// Its user namespace, if it has one of its own, maps root to a user without rights on the host:
// what the container's root does in a test is done by a child that has become that root and shares
// the test's descriptors.
#include "container.hh"

#include <arpa/inet.h>
#include <csignal>
#include <fcntl.h>
#include <fmt/format.h>
#include <fstream>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdexcept>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace psp::lab {
namespace {

// InetAddress is a socket address of either family.
struct InetAddress {
  sockaddr_storage name{};
  socklen_t length = sizeof(sockaddr_storage);
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&name); }
  std::uint16_t port() const {
    return ntohs(reinterpret_cast<const sockaddr_in*>(&name)->sin_port);
  }
};

InetAddress inet_address(const std::string& text) {
  InetAddress address;
  if (text.find(':') == std::string::npos) {
    auto* v4 = reinterpret_cast<sockaddr_in*>(&address.name);
    v4->sin_family = AF_INET;
    ::inet_pton(AF_INET, text.c_str(), &v4->sin_addr);
    address.length = sizeof *v4;
  } else {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.name);
    v6->sin6_family = AF_INET6;
    ::inet_pton(AF_INET6, text.c_str(), &v6->sin6_addr);
    address.length = sizeof *v6;
  }
  return address;
}

std::uint16_t local_port(int fd) {
  InetAddress own;
  ::getsockname(fd, own.get(), &own.length);
  return own.port();
}

template <typename T>
T value_of(ClientResult<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  return std::move(*result);
}

}  // namespace

std::uint32_t ifindex_of(const Netns& netns, const std::string& name) {
  const InNetns inside(netns);
  return ::if_nametoindex(name.c_str());
}

Container::Container(Lab& lab, Link link, Owner owner) : lab_(lab) {
  live(owner);
  wire(link);
}

// live starts the process of the container, in a network namespace of its own.
void Container::live(Owner owner) {
  std::optional<InNetns> inside;
  if (owner == Owner::kHost) inside.emplace(netns_.emplace());
  int ready[2];
  if (::pipe2(ready, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
  const UniqueFd out(ready[0]);
  UniqueFd in(ready[1]);
  process_ = ::fork();
  if (process_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (owner == Owner::kItself && ::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) ::_exit(1);
    ::close_range(3, ~0u, 0);  // what the test holds is not the container's
    for (;;) ::pause();
  }
  in.reset();
  char nothing;
  if (::read(out.get(), &nothing, 1) != 0) throw std::runtime_error("read");
  if (owner == Owner::kHost) return;
  const std::string proc = fmt::format("/proc/{}/", process_);
  for (const char* map : {"uid_map", "gid_map"})
    if (!(std::ofstream(proc + map) << "0 100000 65536" << std::flush))
      throw std::runtime_error("no user namespace");
  netns_.emplace(UniqueFd(::open((proc + "ns/net").c_str(), O_RDONLY | O_CLOEXEC)));
}

bool Container::has_netkit() {
  return Netns().try_sh(fmt::format("{} vc0 vc1 {} l2 2>/dev/null", PSP_MAKE_NETKIT, ::getpid()));
}

void Container::wire(Link link) {
  const Netns& host = lab_.ns(From::kA);
  host.sh(link == Link::kVeth
              ? fmt::format("ip link add vc0 type veth peer name eth0 netns {}", process_)
              : fmt::format("{} vc0 eth0 {} {}", PSP_MAKE_NETKIT, process_,
                            link == Link::kNetkitL2 ? "l2" : "l3"));
  host.sh(
      "ip addr add 10.99.0.1/24 dev vc0 && ip addr add fd99::1/64 dev vc0 nodad && "
      "ip link set vc0 up");
  netns_->sh(
      "ip addr add 10.99.0.2/24 dev eth0 && ip addr add fd99::2/64 dev eth0 nodad && "
      "ip link set eth0 up && ip route add default via 10.99.0.1 && "
      "ip -6 route add default via fd99::1");
  write_sysctl(host, "net/ipv4/ip_forward", "1");
  write_sysctl(host, "net/ipv6/conf/all/forwarding", "1");
  lab_.ns(From::kB).sh(
      "ip route replace 10.99.0.0/24 via 10.77.0.1 && ip -6 route replace fd99::/64 via fd77::1");
  ifindex_ = ifindex_of(*netns_, "eth0");
  const std::string shown = host.sh("ip -j link show vc0"), key = "\"link_netnsid\":";
  nsid_ = std::stoi(shown.substr(shown.find(key) + key.size()));
}

int Container::as_root(const std::function<int()>& action) const {
  const UniqueFd user(::open(fmt::format("/proc/{}/ns/user", process_).c_str(), O_RDONLY));
  constexpr int kNone = 255;
  // It shares the table of descriptors.
  const auto pid =
      static_cast<pid_t>(::syscall(SYS_clone, CLONE_FILES | SIGCHLD, nullptr, nullptr, nullptr, 0));
  if (pid == 0) {
    const bool root = ::setns(user.get(), CLONE_NEWUSER) == 0 &&
                      ::setns(netns_->fd(), CLONE_NEWNET) == 0 && ::setresgid(0, 0, 0) == 0 &&
                      ::setresuid(0, 0, 0) == 0;
    const int result = root ? action() : kNone;
    ::_exit(result >= 0 ? result : kNone);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) != kNone ? WEXITSTATUS(status) : -1;
}

UniqueFd Container::packet_socket(const std::string& netdev) {
  UniqueFd fd(
      as_root([] { return ::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(ETH_P_ALL)); }));
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(ifindex_of(*netns_, netdev));
  const int on = 1;
  if (!fd || ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::setsockopt(fd.get(), SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof on) != 0)
    throw std::runtime_error("no packet socket on " + netdev);
  return fd;
}

Container::~Container() { kill(); }

void Container::kill() {
  if (process_ > 0) {
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }
  process_ = -1;
  netns_.reset();
}

ClientResult<void> Container::associate() {
  Client client = lab_.client(From::kA);
  return client.dev_assoc(value_of(client.devices()).at(0).id, ifindex_, nsid_);
}

ClientResult<void> Container::disassociate() {
  Client client = lab_.client(From::kA);
  return client.dev_disassoc(value_of(client.devices()).at(0).id, ifindex_, nsid_);
}

Client Container::client() {
  const InNetns inside(*netns_);
  return value_of(Client::connect_daemon("@softpsp"));
}

Connection Container::connect(Kind kind) {
  return psp::lab::connect(*netns_, lab_.ns(From::kB), Lab::address(From::kB, kind));
}

Connection connect(const Netns& from, const Netns& to, const std::string& address) {
  InetAddress there = inet_address(address);
  const int family = there.name.ss_family;
  UniqueFd listener;
  Connection connection;
  {
    const InNetns inside(to);
    listener.reset(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::bind(listener.get(), there.get(), there.length) != 0 || ::listen(listener.get(), 4) != 0)
      throw std::runtime_error("cannot listen at " + address);
    ::getsockname(listener.get(), there.get(), &there.length);
  }
  {
    const InNetns inside(from);
    connection.a.reset(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  }
  if (::connect(connection.a.get(), there.get(), there.length) != 0)
    throw std::runtime_error("cannot connect to " + address);
  connection.b.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  connection.flow.family = family == AF_INET ? 4 : 6;
  connection.flow.a_port = local_port(connection.a.get());
  connection.flow.b_port = there.port();
  return connection;
}

Secured Container::secure(const Connection& connection) {
  return lab::secure(client(), lab_.client(From::kB), connection);
}

}  // namespace psp::lab
