// SPDX-License-Identifier: Apache-2.0
//
// What lies around a secured connection: routes to itself and to another PSP device, a bridge,
// other processes that get the socket, marks, and the loss of the netdev while both directions are
// busy.
//
// Threading: the test's thread, and one that keeps a connection busy.
#include <arpa/inet.h>
#include <atomic>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "puppet.hh"

namespace psp::lab {
namespace {

class Surroundings : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    lab_.emplace(Lab::Options{.links = 2});
  }
  bool v6() const { return GetParam() == Kind::kIpv6; }
  static void expect_carried(const Connection& connection) {
    for (const auto& [from, to] : {std::pair(connection.a.get(), connection.b.get()),
                                   std::pair(connection.b.get(), connection.a.get())}) {
      const Octets data = random_octets(5000);
      send_all(from, data);
      EXPECT_EQ(receive(to, data.size()), data);
    }
  }
  std::optional<Lab> lab_;
};

TEST_P(Surroundings, ARouteToAnotherPspDeviceIsSilenceUntilItIsBack) {
  for (const From side : {From::kA, From::kB}) lab_->start(side, {"--dev", "eth1"});
  auto connection = lab_->connect(GetParam());
  secure(*lab_, connection);
  expect_carried(connection);
  const std::string route = fmt::format("{}/{} via {} dev eth1", Lab::address(From::kB, GetParam()),
                                        v6() ? 128 : 32, Lab::address(From::kB, GetParam(), 1));
  const std::size_t first = lab_->cable(0).mark(), second = lab_->cable(1).mark();
  lab_->ns(From::kA).sh("ip route add " + route);
  const Octets data = random_octets(1000);
  send_all(connection.a.get(), data);
  EXPECT_TRUE(eventually([&] { return lab_->drops(From::kA, "POLICY_ROUTE") > 0; }));
  EXPECT_EQ(pending(connection.b.get()), Octets());
  for (const Seen& seen : lab_->cable(1).since(second))
    EXPECT_FALSE(seen.psp) << "sealed by the wrong device";
  expect_nothing_in_clear(*lab_, connection.flow, second, data, 1);
  lab_->ns(From::kA).sh("ip route del " + route);
  EXPECT_EQ(receive(connection.b.get(), data.size(), 10s), data);
  expect_nothing_in_clear(*lab_, connection.flow, first, data);
  expect_carried(connection);
}

// The route to an own address goes by loopback, which has no PSP device.
TEST_P(Surroundings, AConnectionOfTheHostWithItselfStaysClearOrIsSilent) {
  lab_->start(From::kA);
  const InNetns inside(lab_->ns(From::kA));
  const int family = v6() ? AF_INET6 : AF_INET;
  UniqueFd listener(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::listen(listener.get(), 4), 0);
  for (const std::string& own : {Lab::address(From::kA, GetParam()), std::string("loopback")}) {
    sockaddr_storage to{};
    socklen_t length = sizeof to;
    ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&to), &length), 0);
    auto& v4_to = reinterpret_cast<sockaddr_in&>(to);
    auto& v6_to = reinterpret_cast<sockaddr_in6&>(to);
    const std::string address = own != "loopback" ? own : v6() ? "::1" : "127.0.0.1";
    ::inet_pton(family, address.c_str(),
                v6() ? static_cast<void*>(&v6_to.sin6_addr) : &v4_to.sin_addr);
    Connection connection;
    connection.a.reset(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::connect(connection.a.get(), reinterpret_cast<sockaddr*>(&to), length), 0);
    connection.b.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    for (const UniqueFd* fd : {&connection.a, &connection.b}) {
      const auto refused = lab_->client(From::kA).rx_assoc(fd->get(), kVersion);
      ASSERT_FALSE(refused) << address;
      EXPECT_EQ(refused.error().sys_errno, EINVAL) << refused.error().message;
    }
    expect_carried(connection);
    // Who names a device gets keys, and from tx-assoc on silence.
    Client client = lab_->client(From::kA);
    const std::uint32_t device = client.devices().value().front().id;
    ASSERT_TRUE(client.rx_assoc(connection.a.get(), kVersion, device));
    expect_carried(connection);
    ASSERT_TRUE(client.tx_assoc(connection.a.get(), kVersion, random_key(kVersion), device));
    const std::uint64_t before = lab_->drops(From::kA, "POLICY_ROUTE");
    send_all(connection.a.get(), octets_of("nowhere to go"));
    EXPECT_TRUE(eventually([&] { return lab_->drops(From::kA, "POLICY_ROUTE") > before; }));
    EXPECT_EQ(pending(connection.b.get()), Octets());
  }
}

TEST_P(Surroundings, ABridgeBesideGoesOnAndSoDoesTheConnection) {
  for (const From side : {From::kA, From::kB}) lab_->start(side);
  auto connection = lab_->connect(GetParam());
  secure(*lab_, connection);
  lab_->ns(From::kA).sh(
      "ip link add br0 type bridge && ip link set br0 up && ip link set eth1 master br0 && "
      "ip addr flush dev eth1 && ip addr add 10.78.0.1/24 dev br0 && "
      "ip link set br0 address 02:00:00:00:00:01 && "
      "ip addr add fd78::1/64 dev br0 nodad && "
      "ip neigh replace 10.78.0.2 lladdr 02:00:00:00:00:02 dev br0 && "
      "ip neigh replace fd78::2 lladdr 02:00:00:00:00:02 dev br0");
  const std::size_t mark = lab_->cable().mark();
  expect_carried(connection);
  expect_nothing_in_clear(*lab_, connection.flow, mark, random_octets(64));
  auto bridged = lab_->connect(GetParam(), {.link = 1});
  expect_carried(bridged);
  EXPECT_FALSE(lab_->client(From::kA).rx_assoc(bridged.a.get(), kVersion));
}

// in_child runs `body` in a forked process that shares nothing but its descriptors.
bool in_child(const std::function<bool()>& body, const std::function<void()>& meanwhile) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::_exit(body() ? 0 : 1);
  }
  meanwhile();
  int status = -1;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST_P(Surroundings, ASecuredSocketServesTheForkedProcessWhenTheFirstHasClosedIt) {
  for (const From side : {From::kA, From::kB}) lab_->start(side);
  auto connection = lab_->connect(GetParam());
  const int fd = connection.a.get();
  secure(*lab_, connection);
  const std::size_t mark = lab_->cable().mark();
  const Octets data = random_octets(3000);
  EXPECT_TRUE(in_child(
      [&] {
        const Octets came = receive(fd, 2);
        send_all(fd, data);
        return came == octets_of("go");
      },
      [&] {
        connection.a.reset();
        send_all(connection.b.get(), octets_of("go"));
        EXPECT_EQ(receive(connection.b.get(), data.size()), data);
      }));
  EXPECT_TRUE(at_end(connection.b.get())) << "the child's end is the connection's";
  expect_nothing_in_clear(*lab_, connection.flow, mark, data);
}

TEST_P(Surroundings, AMarkThatTheForgerCopiesOpensNothing) {
  lab_->start(From::kA);
  Puppet puppet(*lab_, GetParam(), PSP_STATE_FULL);
  const int marked = 0x5053;
  ASSERT_EQ(::setsockopt(puppet.fd(), SOL_SOCKET, SO_MARK, &marked, sizeof marked), 0);
  const InNetns inside(lab_->ns(From::kA));
  const UniqueFd raw(::socket(v6() ? AF_INET6 : AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW));
  const Octets packet = clear_packet(puppet.flow(), From::kB,
                                     {.seq = puppet.seq(),
                                      .ack = puppet.ack(),
                                      .flags = kPsh | kAck,
                                      .payload = random_octets(32)});
  sockaddr_storage to{};
  to.ss_family = v6() ? AF_INET6 : AF_INET;
  std::memcpy(v6() ? static_cast<void*>(&reinterpret_cast<sockaddr_in6&>(to).sin6_addr)
                   : &reinterpret_cast<sockaddr_in&>(to).sin_addr,
              packet.data() + (v6() ? 24 : 16), v6() ? 16 : 4);
  for (const int mark : {marked, 1, 0x7fffffff, -1}) {
    ASSERT_EQ(::setsockopt(raw.get(), SOL_SOCKET, SO_MARK, &mark, sizeof mark), 0);
    const std::uint64_t before = lab_->association(From::kA, puppet.fd())->rx_drops;
    ASSERT_GT(::sendto(raw.get(), packet.data(), packet.size(), 0, reinterpret_cast<sockaddr*>(&to),
                       v6() ? sizeof(sockaddr_in6) : sizeof(sockaddr_in)),
              0);
    EXPECT_TRUE(eventually([&] {
      return lab_->association(From::kA, puppet.fd())->rx_drops == before + 1;
    })) << mark;
    EXPECT_EQ(pending(puppet.fd()), Octets());
  }
}

TEST_P(Surroundings, ANetdevRemovedUnderTrafficSaysNothingInClear) {
  for (const From side : {From::kA, From::kB}) lab_->start(side);
  auto connection = lab_->connect(GetParam());
  secure(*lab_, connection);
  const std::size_t mark = lab_->cable().mark(), other = lab_->cable(1).mark();
  const Octets data = random_octets(1 << 16);
  std::atomic<std::uint64_t> received{0};
  std::jthread busy([&](const std::stop_token& stop) {
    Octets sink(1 << 16);
    while (!stop.stop_requested())
      for (const int fd : {connection.a.get(), connection.b.get()}) {
        (void)::send(fd, data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        const ssize_t n = ::recv(fd, sink.data(), sink.size(), MSG_DONTWAIT);
        if (n > 0) received += static_cast<std::uint64_t>(n);
      }
  });
  EXPECT_TRUE(eventually([&] { return received > 1 << 20; }));
  Netns& host = lab_->ns(From::kA);
  host.sh(fmt::format(
      "ip addr add {}/{} dev lo; ip link del eth0; ip route add {}/{} via {} dev eth1",
      Lab::address(From::kA, GetParam()), v6() ? 128 : 32, Lab::address(From::kB, GetParam()),
      v6() ? 128 : 32, Lab::address(From::kB, GetParam(), 1)));
  EXPECT_TRUE(eventually([&] { return lab_->client(From::kA).devices().value().empty(); }));
  std::this_thread::sleep_for(700ms);  // retransmissions
  busy.request_stop();
  busy.join();
  expect_nothing_in_clear(*lab_, connection.flow, mark, data);
  expect_nothing_in_clear(*lab_, connection.flow, other, data, 1);
}

TEST_P(Surroundings, APeerThatIsAllowedIsHeard) {
  lab_->start(From::kA, {"--allow-peers", "192.0.2.0/24," + Lab::address(From::kB, GetParam())});
  lab_->start(From::kB);
  const auto connection = lab_->connect(GetParam());
  secure(*lab_, connection);
  expect_carried(connection);
  EXPECT_EQ(lab_->drops(From::kA, "PEER_NOT_ALLOWED"), 0u);
}

TEST_P(Surroundings, OfAPeerThatIsNotAllowedNothingIsOpened) {
  lab_->start(From::kA, {"--allow-peers", "192.0.2.0/24"});
  lab_->start(From::kB);
  const auto connection = lab_->connect(GetParam());
  secure(*lab_, connection);
  send_all(connection.b.get(), random_octets(1000));
  EXPECT_TRUE(eventually([&] { return lab_->drops(From::kA, "PEER_NOT_ALLOWED") > 0; }));
  EXPECT_EQ(pending(connection.a.get()), Octets());
  EXPECT_EQ(lab_->stats(From::kA).rx_packets, 0u);
}

INSTANTIATE_TEST_SUITE_P(Families, Surroundings, testing::Values(Kind::kIpv4, Kind::kIpv6),
                         kind_param);

}  // namespace
}  // namespace psp::lab
