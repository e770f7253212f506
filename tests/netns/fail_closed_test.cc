// SPDX-License-Identifier: Apache-2.0
//
// What must never happen: clear text of a socket with a Tx key on any wire, and an unauthenticated
// octet in it, whatever is killed, rerouted or injected.
//
// Connections are under load when it happens. The oracle is the cable, which has every frame:
// nothing of the flow in clear, and none of the content anywhere; and for what is injected the
// socket, which must have nothing to read. A way in by clear packets is first shown to reach a
// socket without keys, or a drop would prove nothing. Attacks by root with other means are in
// hostile_test.cc.
#include <csignal>
#include <cstring>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <thread>

#include "puppet.hh"
#include "traffic.hh"

namespace psp::lab {
namespace {

enum class Victim { kOne, kBoth };
using Killed = std::tuple<Kind, Victim>;

class FailClosed : public testing::TestWithParam<Killed> {
 protected:
  void SetUp() override { PSP_NEEDS_LAB(); }
  Kind kind() const { return std::get<Kind>(GetParam()); }
  bool both() const { return std::get<Victim>(GetParam()) == Victim::kBoth; }
};

TEST_P(FailClosed, AKilledDaemonLeavesSilenceAndTheNextOneStartsAfresh) {
  Lab lab;
  lab.start(From::kA);
  lab.start(From::kB);
  auto connection = lab.connect(kind()), survivor = lab.connect(kind());
  secure(lab, connection);
  secure(lab, survivor);
  send_all(survivor.a.get(), {'x'});
  EXPECT_EQ(receive(survivor.b.get(), 1), octets_of("x"));
  const std::size_t mark = lab.cable().mark();
  Octets content;
  {
    Traffic traffic(connection);
    content = traffic.content();
    ASSERT_TRUE(eventually([&] { return traffic.received() > 1 << 20; }));
    lab.kill(From::kA);
    if (both()) lab.kill(From::kB);
    std::this_thread::sleep_for(1500ms);  // retransmissions
    EXPECT_TRUE(lab.cable().find(
        mark, [](const Seen& seen) { return seen.psp; }, 0ms));
  }
  connection.a.reset();  // FIN or RST of the application's close
  connection.b.reset();
  send_all(survivor.a.get(), octets_of("into the void"));
  std::this_thread::sleep_for(700ms);
  expect_nothing_in_clear(lab, connection.flow, mark, content);
  expect_nothing_in_clear(lab, survivor.flow, mark, content);

  lab.start(From::kA);
  EXPECT_EQ(socket_error(survivor.a.get()), ECONNABORTED);
  if (both()) {
    lab.start(From::kB);
    EXPECT_EQ(socket_error(survivor.b.get()), ECONNABORTED);
  }
  auto later = lab.connect(kind());
  secure(lab, later);
  send_all(later.a.get(), octets_of("again"));
  EXPECT_EQ(receive(later.b.get(), 5), octets_of("again"));
  expect_nothing_in_clear(lab, connection.flow, mark, content);
  expect_nothing_in_clear(lab, survivor.flow, mark, content);
}

INSTANTIATE_TEST_SUITE_P(Kills, FailClosed,
                         testing::Combine(testing::Values(Kind::kIpv4, Kind::kIpv6),
                                          testing::Values(Victim::kOne, Victim::kBoth)),
                         [](const auto& one) {
                           return kind_name(std::get<Kind>(one.param)) +
                                  (std::get<Victim>(one.param) == Victim::kOne ? "One" : "Both");
                         });

class Leak : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override { PSP_NEEDS_LAB(); }
  // Other is what the netdev of another route has.
  enum class Other { kNothing, kPsp, kSomebodysClsact };
  void another_route(Other other);
};

TEST_P(Leak, TheProcessThatDiesAfterItsDaemonSaysNothingInClear) {
  Lab lab;
  lab.start(From::kA);
  lab.start(From::kB);
  auto connection = lab.connect(GetParam());
  secure(lab, connection);
  const std::size_t mark = lab.cable().mark();
  const Octets content = random_octets(4096);
  const pid_t owner = ::fork();
  ASSERT_GE(owner, 0);
  if (owner == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;)
      if (::send(connection.a.get(), content.data(), content.size(), MSG_NOSIGNAL) < 0) ::pause();
  }
  connection.a.reset();
  EXPECT_EQ(receive(connection.b.get(), 100'000).size(), 100'000u);
  lab.kill(From::kA);
  ::kill(owner, SIGKILL);
  ::waitpid(owner, nullptr, 0);
  std::this_thread::sleep_for(1s);
  expect_nothing_in_clear(lab, connection.flow, mark, content);
}

void Leak::another_route(Other other) {
  Lab lab({.links = 2});
  lab.start(From::kA, other == Other::kPsp ? std::vector<std::string>{"--dev", "eth1"}
                                           : std::vector<std::string>{});
  if (other == Other::kSomebodysClsact) lab.ns(From::kA).sh("tc qdisc add dev eth1 clsact");
  lab.start(From::kB);
  auto connection = lab.connect(GetParam());
  secure(lab, connection);
  const std::size_t mark = lab.cable(1).mark(), first_mark = lab.cable().mark();
  const bool v6 = GetParam() == Kind::kIpv6;
  const std::string route =
      fmt::format("{} via {} dev eth1", Lab::address(From::kB, GetParam()) + (v6 ? "/128" : "/32"),
                  Lab::address(From::kB, GetParam(), 1));
  const Octets before = random_octets(1000), data = random_octets(1000);
  send_all(connection.a.get(), before);
  EXPECT_EQ(receive(connection.b.get(), 1000), before) << "on the way that is right";
  lab.ns(From::kA).sh("ip route add " + route);
  send_all(connection.a.get(), data);
  EXPECT_TRUE(eventually([&] { return lab.drops(From::kA, "POLICY_ROUTE") >= 2; }));
  EXPECT_EQ(receive(connection.b.get(), 1, 100ms), Octets());
  lab.ns(From::kA).sh("ip route del " + route);
  EXPECT_EQ(receive(connection.b.get(), 1000), data);
  for (const Seen& seen : lab.cable(1).since(mark)) {
    EXPECT_FALSE(of_flow(seen, connection.flow));
    EXPECT_FALSE(seen.psp);
  }
  expect_nothing_in_clear(lab, connection.flow, first_mark, data);
}

// Also a route over another PSP device is no way out, nor one over a netdev with other tc programs.
TEST_P(Leak, AnotherRouteBlackholes) {
  for (const auto other : {Other::kNothing, Other::kPsp, Other::kSomebodysClsact})
    another_route(other);
}

TEST_P(Leak, ARemovedFilterComesBack) {
  Lab lab;
  lab.start(From::kA);
  lab.start(From::kB);
  auto connection = lab.connect(GetParam());
  secure(lab, connection);
  for (const char* side : {"egress", "ingress"}) {
    Netns& host = lab.ns(From::kA);
    host.sh(std::string("tc filter del dev eth0 ") + side);
    EXPECT_TRUE(eventually([&] {
      return host.sh(std::string("tc filter show dev eth0 ") + side).find("psp_") !=
             std::string::npos;
    }));
  }
  const std::size_t mark = lab.cable().mark();
  const Octets data = random_octets(1000);
  send_all(connection.a.get(), data);
  EXPECT_EQ(receive(connection.b.get(), 1000), data);
  expect_nothing_in_clear(lab, connection.flow, mark, data);
}

INSTANTIATE_TEST_SUITE_P(Families, Leak, testing::Values(Kind::kIpv4, Kind::kIpv6), kind_param);

// Injection: A is secured, and somebody on the host or on another wire speaks for B in clear.
class Injection : public testing::TestWithParam<std::tuple<Kind, psp_state>> {
 protected:
  static void SetUpTestSuite() {
    if (missing()) return;
    lab_ = std::make_unique<Lab>(Lab::Options{.links = 2});
    lab_->start(From::kA);
  }
  static void TearDownTestSuite() { lab_.reset(); }
  void SetUp() override {
    PSP_NEEDS_LAB();
    puppet_.emplace(*lab_, std::get<Kind>(GetParam()), std::get<psp_state>(GetParam()));
  }
  void TearDown() override { puppet_.reset(); }

  Octets forged(std::size_t size = 32) const {
    return clear_packet(puppet_->flow(), From::kB,
                        {.seq = puppet_->seq(),
                         .ack = puppet_->ack(),
                         .flags = kPsh | kAck,
                         .payload = random_octets(size)});
  }
  std::uint64_t rx_drops() const { return lab_->association(From::kA, puppet_->fd())->rx_drops; }
  void expect_dropped(std::uint64_t before) {
    EXPECT_TRUE(eventually([&] { return rx_drops() == before + 1; })) << rx_drops() - before;
    EXPECT_EQ(pending(puppet_->fd()), Octets());
  }
  bool reaches_a_clear_socket(const std::function<void(const Octets&)>& inject) {
    Puppet clear(*lab_, std::get<Kind>(GetParam()), PSP_STATE_NONE);
    const Octets text = octets_of("it gets there");
    inject(clear_packet(clear.flow(), From::kB,
                        {.seq = clear.seq(), .ack = clear.ack(), .payload = text}));
    return receive(clear.fd(), text.size()) == text;
  }

  // send_raw sends an IP packet by a raw socket of host A: to an own address, so by loopback.
  static void send_raw(const Octets& packet) {
    const InNetns inside(lab_->ns(From::kA));
    const bool v4 = packet[0] >> 4 == 4;
    const UniqueFd raw(::socket(v4 ? AF_INET : AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW));
    sockaddr_storage to{};
    if (v4) {
      auto& v4_to = reinterpret_cast<sockaddr_in&>(to);
      v4_to.sin_family = AF_INET;
      std::memcpy(&v4_to.sin_addr, packet.data() + 16, 4);
    } else {
      auto& v6_to = reinterpret_cast<sockaddr_in6&>(to);
      v6_to.sin6_family = AF_INET6;
      std::memcpy(&v6_to.sin6_addr, packet.data() + 24, 16);
    }
    EXPECT_EQ(::sendto(raw.get(), packet.data(), packet.size(), 0, reinterpret_cast<sockaddr*>(&to),
                       v4 ? sizeof(sockaddr_in) : sizeof to),
              static_cast<ssize_t>(packet.size()))
        << std::strerror(errno);
  }

  static inline std::unique_ptr<Lab> lab_;
  std::optional<Puppet> puppet_;
};

TEST_P(Injection, ByAnotherInterfaceIsDropped) {
  const auto inject = [](const Octets& packet) { lab_->cable(1).send(From::kB, packet); };
  ASSERT_TRUE(reaches_a_clear_socket(inject)) << "the way in is closed to everybody";
  const std::uint64_t before = rx_drops();
  inject(forged());
  expect_dropped(before);
}

TEST_P(Injection, ByALocalRawSocketIsDropped) {
  ASSERT_TRUE(reaches_a_clear_socket(send_raw)) << "the way in is closed to everybody";
  const std::uint64_t before = rx_drops();
  send_raw(forged());
  expect_dropped(before);
}

TEST_P(Injection, OfPspPacketsByAnInterfaceWithoutPspDeviceReachesNobody) {
  const std::uint64_t before = rx_drops();
  lab_->cable(1).send(From::kB, seal(forged(), with(kVersion, puppet_->rx())));
  puppet_->send_sealed({.seq = puppet_->seq(), .ack = puppet_->ack(), .payload = {'x'}});
  EXPECT_EQ(receive(puppet_->fd(), 1), octets_of("x"));
  EXPECT_EQ(pending(puppet_->fd()), Octets());
  EXPECT_EQ(rx_drops(), before);
}

TEST_P(Injection, IntoTheTapIsDropped) {
  const InNetns inside(lab_->ns(From::kA));
  const DaemonInfo info = lab_->daemon_info(From::kA);
  const UniqueFd raw(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  sockaddr_ll to{};
  to.sll_family = AF_PACKET;
  to.sll_ifindex = static_cast<int>(::if_nametoindex(info.devices.front().tap.c_str()));
  ASSERT_NE(to.sll_ifindex, 0);
  // As psp_egress tags a segment of Tx handle 1; as a PSP packet comes from the wire.
  Octets to_seal(14), to_open(14);
  to_seal[6] = 0x02;
  to_seal[11] = 1;
  const bool v4 = puppet_->flow().family == 4;
  for (Octets* frame : {&to_seal, &to_open}) {
    (*frame)[12] = v4 ? 0x08 : 0x86;
    (*frame)[13] = v4 ? 0x00 : 0xdd;
  }
  // Sockets of the tests before may say their last again, but nothing that long.
  const Octets clear = forged(777), sealed = seal(clear, with(kVersion, puppet_->rx()));
  to_seal.insert(to_seal.end(), clear.begin(), clear.end());
  to_open.insert(to_open.end(), sealed.begin(), sealed.end());
  const std::size_t mark = lab_->cable().mark();
  const std::uint64_t before = lab_->drops(From::kA, "POLICY_FORGED");
  const auto stats = lab_->stats(From::kA);
  for (const Octets& frame : {to_seal, to_open})
    EXPECT_LT(::sendto(raw.get(), frame.data(), frame.size(), 0,
                       reinterpret_cast<const sockaddr*>(&to), sizeof to),
              0);
  EXPECT_TRUE(eventually([&] { return lab_->drops(From::kA, "POLICY_FORGED") == before + 2; }));
  EXPECT_FALSE(lab_->cable().find(
      mark, [&](const Seen& seen) { return seen.psp && seen.octets.size() == sealed.size(); },
      100ms));
  EXPECT_EQ(lab_->stats(From::kA).rx_packets, stats.rx_packets);
}

INSTANTIATE_TEST_SUITE_P(Ways, Injection,
                         testing::Combine(testing::Values(Kind::kIpv4, Kind::kIpv6),
                                          testing::Values(PSP_STATE_TX, PSP_STATE_FULL)),
                         [](const auto& one) {
                           return kind_name(std::get<Kind>(one.param)) +
                                  (std::get<psp_state>(one.param) == PSP_STATE_TX ? "Tx" : "Full");
                         });

}  // namespace
}  // namespace psp::lab
