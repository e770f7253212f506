// SPDX-License-Identifier: Apache-2.0
//
// pspd comes and goes: what it leaves on the host (nothing), what it does not touch (everybody
// else's), when it refuses to start, and what a killed one leaves.
//
// The oracle is the host itself, as ip, tc and ethtool show it before and after, and the ids of BPF
// programs: they must have gone, not only be off the netdev. A killed pspd must leave its programs,
// for they block; --cleanup or the next pspd takes them away. What happens to traffic meanwhile is
// in fail_closed_test.cc.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "lab.hh"

namespace psp::lab {
namespace {

constexpr const char* kGroForwarding = "rx-udp-gro-forwarding";

class Lifecycle : public testing::Test {
 protected:
  void SetUp() override { PSP_NEEDS_LAB(); }

  // host_state is what pspd changes while it runs: devices, qdiscs, filters, features.
  static std::string host_state(const Netns& netns) {
    std::string state = netns.sh("ip -o link | cut -d: -f2");
    for (const char* device : {"eth0", "eth1"}) {
      if (!netns.try_sh(fmt::format("ip link show {}", device))) continue;
      state +=
          netns.sh(fmt::format("tc qdisc show dev {0}; tc filter show dev {0} ingress; "
                               "tc filter show dev {0} egress; ethtool -k {0}",
                               device));
    }
    return state;
  }
  // Programs go with an RCU grace period.
  static bool gone(const std::vector<unsigned>& programs) {
    return eventually([&] { return !any_exists(programs); });
  }
  static bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  }
};

TEST_F(Lifecycle, ACleanStopPutsTheHostBackAsItWas) {
  for (const bool forwarding : {false, true}) {
    Lab lab;
    Netns& host = lab.ns(From::kA);
    set_feature(host, "eth0", kGroForwarding, forwarding);
    const std::string before = host_state(host);
    const auto programs = programs_of(lab.start(From::kA).pid());
    EXPECT_GE(programs.size(), 8u);
    EXPECT_TRUE(any_exists(programs));
    EXPECT_NE(host_state(host), before);
    EXPECT_TRUE(feature(host, "eth0", kGroForwarding));
    EXPECT_EQ(lab.stop(From::kA), 0);
    EXPECT_EQ(host_state(host), before);
    EXPECT_TRUE(gone(programs));
  }
}

// Nobody can swap it out: with all options as they are, it may be 32 MiB.
TEST_F(Lifecycle, AnIdleDaemonHoldsLittleKernelMemory) {
  Lab lab;
  std::size_t all = 0;
  for (const auto& [map, octets] : memlock_of(lab.start(From::kA).pid())) all += octets;
  EXPECT_GT(all, std::size_t{1} << 20) << "of which map?";
  EXPECT_LT(all, std::size_t{32} << 20);
}

TEST_F(Lifecycle, ACleanStopLeavesFiltersOfOthers) {
  Lab lab;
  Netns& host = lab.ns(From::kA);
  host.sh("tc qdisc add dev eth0 clsact");
  host.sh("tc filter add dev eth0 ingress prio 7 bpf bytecode '1,6 0 0 0'");
  const std::string before = host_state(host);
  lab.start(From::kA);
  EXPECT_EQ(lab.stop(From::kA), 0);
  EXPECT_EQ(host_state(host), before);
}

TEST_F(Lifecycle, ACleanStopLeavesAFilterThatCameLater) {
  Lab lab;
  Netns& host = lab.ns(From::kA);
  lab.start(From::kA);
  host.sh("tc filter add dev eth0 egress prio 7 bpf bytecode '1,6 0 0 0'");
  EXPECT_EQ(lab.stop(From::kA), 0);
  const std::string filters =
      host.sh("tc filter show dev eth0 ingress; tc filter show dev eth0 egress");
  EXPECT_TRUE(contains(filters, "pref 7 bpf")) << filters;
  EXPECT_FALSE(contains(filters, "psp_")) << filters;
}

TEST_F(Lifecycle, ACleanStopAbortsSecuredConnectionsAndNoOthers) {
  Lab lab;
  lab.start(From::kA);
  lab.start(From::kB);
  auto secured = lab.connect(Kind::kIpv4), secured6 = lab.connect(Kind::kIpv6);
  auto plain = lab.connect(Kind::kIpv4), half = lab.connect(Kind::kIpv4);
  secure(lab, secured);
  secure(lab, secured6);
  ASSERT_TRUE(lab.client(From::kA).rx_assoc(half.a.get(), Version::kAesGcm128));
  const std::size_t mark = lab.cable().mark();
  EXPECT_EQ(lab.stop(From::kA), 0);
  EXPECT_EQ(socket_error(secured.a.get()), ECONNABORTED);
  EXPECT_EQ(socket_error(secured6.a.get()), ECONNABORTED);
  EXPECT_NE(socket_error(secured.b.get()), 0) << "the peer is not told";
  send_all(plain.a.get(), octets_of("goes on"));
  EXPECT_EQ(receive(plain.b.get(), 7), octets_of("goes on"));
  send_all(half.a.get(), octets_of("in clear"));
  EXPECT_EQ(receive(half.b.get(), 8), octets_of("in clear"));
  for (const Seen& seen : lab.cable().since(mark)) {
    EXPECT_FALSE(of_flow(seen, secured.flow));
    EXPECT_FALSE(of_flow(seen, secured6.flow));
  }
}

TEST_F(Lifecycle, OneDaemonServesTwoDevices) {
  Lab lab({.links = 2});
  Netns& host = lab.ns(From::kA);
  const std::string before = host_state(host);
  lab.start(From::kA, {"--dev", "eth1"});
  lab.start(From::kB, {"--dev", "eth1"});
  const auto devices = lab.client(From::kA).devices();
  ASSERT_TRUE(devices);
  ASSERT_EQ(devices->size(), 2u);
  EXPECT_NE((*devices)[0].ifindex, (*devices)[1].ifindex);
  for (const unsigned link : {0u, 1u})
    for (const Kind kind : {Kind::kIpv4, Kind::kIpv6}) {
      auto connection = lab.connect(kind, {.link = link});
      secure(lab, connection);
      send_all(connection.a.get(), octets_of("ping"));
      EXPECT_EQ(receive(connection.b.get(), 4), octets_of("ping"));
      send_all(connection.b.get(), octets_of("pong"));
      EXPECT_EQ(receive(connection.a.get(), 4), octets_of("pong"));
      const auto info = lab.association(From::kA, connection.a.get());
      ASSERT_TRUE(info);
      EXPECT_EQ(info->ifname, fmt::format("eth{}", link));
    }
  EXPECT_EQ(lab.stop(From::kA), 0);
  EXPECT_EQ(host_state(host), before);
}

TEST_F(Lifecycle, ASecondDaemonOnTheSameDeviceRefuses) {
  Lab lab;
  lab.start(From::kA);
  const std::string before = host_state(lab.ns(From::kA));
  Pspd second(lab.ns(From::kA), {"--dev", "eth0", "--socket", "@other"});
  EXPECT_FALSE(second.wait_ready());
  EXPECT_EQ(second.wait(), 1);
  EXPECT_TRUE(contains(second.log(), "eth0 already has a pspd: stop that one first"))
      << second.log();
  EXPECT_EQ(host_state(lab.ns(From::kA)), before);
}

TEST_F(Lifecycle, ARefusedStartLeavesNothing) {
  Lab lab({.links = 2});
  Netns& host = lab.ns(From::kA);
  const std::string before = host_state(host);
  {
    Pspd missing_device(host, {"--dev", "eth0", "--dev", "nope0", "--require"});
    EXPECT_FALSE(missing_device.wait_ready());
    EXPECT_EQ(missing_device.wait(), 1);
    EXPECT_TRUE(contains(missing_device.log(), "there is no network device nope0"))
        << missing_device.log();
    EXPECT_EQ(host_state(host), before);
  }
  {
    Pspd loopback(host, {"--dev", "lo"});
    EXPECT_FALSE(loopback.wait_ready());
    EXPECT_EQ(loopback.wait(), 1);
    EXPECT_TRUE(contains(loopback.log(), "lo is not an Ethernet device")) << loopback.log();
  }
  lab.start(From::kA);
  const std::string with_first = host_state(host);
  Pspd same_socket(host, {"--dev", "eth1"});
  EXPECT_FALSE(same_socket.wait_ready());
  EXPECT_EQ(same_socket.wait(), 1);
  EXPECT_TRUE(contains(same_socket.log(), "another pspd listens at @softpsp")) << same_socket.log();
  EXPECT_EQ(host_state(host), with_first);
}

TEST_F(Lifecycle, CleanupRemovesWhatAKilledDaemonLeft) {
  Lab lab;
  Netns& host = lab.ns(From::kA);
  const std::string before = host_state(host);
  const auto programs = programs_of(lab.start(From::kA).pid());
  auto connection = lab.connect(Kind::kIpv4);
  const auto rx = lab.client(From::kA).rx_assoc(connection.a.get(), Version::kAesGcm128);
  ASSERT_TRUE(rx);
  ASSERT_TRUE(lab.client(From::kA).tx_assoc(connection.a.get(), Version::kAesGcm128, rx->rx));
  lab.kill(From::kA);
  EXPECT_TRUE(any_exists(programs)) << "nothing would block the secured socket";
  EXPECT_EQ(socket_error(connection.a.get(), 0ms), 0);
  lab.clean_up(From::kA);
  EXPECT_EQ(socket_error(connection.a.get()), ECONNABORTED);
  EXPECT_EQ(host_state(host), before);
  EXPECT_TRUE(gone(programs));
}

TEST_F(Lifecycle, TheNextStartTakesOverFromAKilledDaemon) {
  Lab lab;
  Netns& host = lab.ns(From::kA);
  const std::string before = host_state(host);
  const auto programs = programs_of(lab.start(From::kA).pid());
  lab.kill(From::kA);
  lab.start(From::kA);
  EXPECT_TRUE(gone(programs));
  EXPECT_EQ(lab.stop(From::kA), 0);
  EXPECT_EQ(host_state(host), before);
}

TEST_F(Lifecycle, SighupWithoutAFileChangesNothing) {
  Lab lab;
  Pspd& daemon = lab.start(From::kA);
  auto connection = lab.connect(Kind::kIpv4);
  ASSERT_TRUE(lab.client(From::kA).rx_assoc(connection.a.get(), Version::kAesGcm128));
  daemon.send(SIGHUP);
  EXPECT_TRUE(daemon.wait_said("there is no configuration file"));
  EXPECT_TRUE(lab.association(From::kA, connection.a.get()));
  EXPECT_EQ(lab.stop(From::kA), 0);
}

TEST_F(Lifecycle, EverySignalThatCanWaitStopsItInOrder) {
  Lab lab;
  Netns& host = lab.ns(From::kA);
  const std::string before = host_state(host);
  for (const int signal : {SIGINT, SIGQUIT, SIGUSR1, SIGALRM, SIGRTMIN, SIGXCPU}) {
    Pspd daemon(host, {"--dev", "eth0"});
    ASSERT_TRUE(daemon.wait_ready());
    daemon.send(signal);
    EXPECT_EQ(daemon.wait(), 0) << signal;
    EXPECT_TRUE(contains(daemon.log(), "pspd: caught ")) << daemon.log();
    EXPECT_EQ(host_state(host), before) << signal;
  }
  Pspd& daemon = lab.start(From::kA);
  daemon.send(SIGSEGV);
  EXPECT_EQ(daemon.wait(), -1);
  EXPECT_TRUE(contains(daemon.log(), "crashed. Its programs stay in place")) << daemon.log();
  lab.kill(From::kA);
  lab.clean_up(From::kA);
  EXPECT_EQ(host_state(host), before);
}

TEST_F(Lifecycle, TheDaemonOutlivesItsDevice) {
  Lab lab({.links = 2});
  Pspd& daemon = lab.start(From::kA, {"--dev", "eth1"});
  const auto programs = programs_of(daemon.pid());
  lab.ns(From::kA).sh("ip link del eth1");
  EXPECT_TRUE(eventually([&] { return lab.client(From::kA).devices().value().size() == 1; }));
  auto connection = lab.connect(Kind::kIpv4);
  EXPECT_TRUE(lab.client(From::kA).rx_assoc(connection.a.get(), Version::kAesGcm128));
  EXPECT_EQ(lab.stop(From::kA), 0);
  EXPECT_TRUE(gone(programs));
}

}  // namespace
}  // namespace psp::lab
