// SPDX-License-Identifier: Apache-2.0
//
// What pspctl doctor says of firewalls and other programs of a host, to a container, and when it
// says so: it has one patience for all addresses of a host.
//
// Real firewalls (nft) count what they see, and so hold the table in docs/operations.md to the
// truth: they see the clear segments, and no PSP packets. Time is measured by the clock, since a
// tool that hangs is of no use. A right that it lacks must be told, and never look like a good way.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <fmt/format.h>
#include <fstream>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "doctor_network.hh"

namespace psp::lab {
namespace {

// The table "Firewalls" in docs/operations.md.
TEST_F(Doctor, FirewallsOfTheHostSeeWhatIsInsideAndNotThePackets) {
  const Netns& peer = network_->peer;
  for (const char* family : {"inet", "netdev"}) {
    peer.sh(fmt::format("nft add table {} t", family));
    const auto hooks =
        *family == 'i' ? std::vector<std::string>{"prerouting", "input", "output", "postrouting"}
                       : std::vector<std::string>{"ingress", "egress"};
    for (const std::string& hook : hooks) {
      peer.sh(
          fmt::format("nft add counter {0} t udp-{1} && nft add counter {0} t tcp-{1} && nft "
                      "'add chain {0} t {1} {{ type filter hook {1} {2} priority 0; }}' && nft "
                      "add rule {0} t {1} udp dport 1000 counter name udp-{1} && nft add rule "
                      "{0} t {1} tcp dport 7000 counter name tcp-{1} && nft add rule {0} t {1} "
                      "tcp sport 7000 counter name tcp-{1}",
                      family, hook, *family == 'i' ? "" : "device eth0"));
    }
  }
  const std::string program = PSP_CAT_PATH " --insecure-first-use";
  peer.sh(program + " -l 7000 >/dev/null 2>&1 & sleep 0.5");
  network_->host.sh("head -c 300000 /dev/zero | timeout 20 " + program + " 10.77.2.1 7000");
  const auto seen = [&](const std::string& family, const std::string& counter) {
    const std::string said = peer.sh("nft list counter " + family + " t " + counter);
    return std::stoul(said.substr(said.find("packets ") + 8));
  };
  for (const char* hook : {"prerouting", "input", "output", "postrouting"}) {
    EXPECT_EQ(seen("inet", fmt::format("udp-{}", hook)), 0u) << hook;
    EXPECT_GT(seen("inet", fmt::format("tcp-{}", hook)), 3u) << hook;
  }
  EXPECT_EQ(seen("netdev", "udp-ingress"), 0u);
  EXPECT_GT(seen("netdev", "tcp-ingress"), 3u);
  EXPECT_EQ(seen("netdev", "udp-egress"), 0u);
  EXPECT_GT(seen("netdev", "tcp-egress"), 3u);
}

TEST_F(Doctor, WarnsOfAnotherProgramOnThePortOfPspAsThePspdDoes) {
  const std::string warning = "another program uses UDP port 1000";
  EXPECT_EQ(network_->doctor(network_->host, kPeer).first.find(warning), std::string::npos);
  UniqueFd other;
  {
    const InNetns inside(network_->host);
    other.reset(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_in any{};
    any.sin_family = AF_INET;
    any.sin_port = htons(1000);
    ASSERT_EQ(::bind(other.get(), reinterpret_cast<const sockaddr*>(&any), sizeof any), 0);
  }
  network_->start_host();
  EXPECT_NE(network_->host_pspd->log().find(warning), std::string::npos);
  EXPECT_NE(network_->doctor(network_->host, kPeer).first.find("WARN udp-port: " + warning),
            std::string::npos);
  expect_well(kPeer);
}

// Both families' addresses have one deadline: one of them is on the link and says nothing, for as
// long as doctor waits for a neighbour, and then both lose all but the small packets.
TEST_F(Doctor, HasOnePatienceForAllAddressesOfAHost) {
  network_->router.sh(
      "nft add table inet t && nft 'add chain inet t c { type filter hook forward priority 0; }' "
      "&& "
      "nft add rule inet t c meta length gt 1350 drop && ip link set rb mtu 1400");
  for (const char* family : {"", "-6"})
    network_->host.sh(fmt::format("ip {} neigh flush dev eth0", family));
  const std::string names = fmt::format("{}doctor-hosts-{}", testing::TempDir(), ::getpid());
  std::ofstream(names) << kPeer << " both\n" << kPeer6 << " both\n";
  const auto ask = [&](const std::string& before) {
    const auto begin = std::chrono::steady_clock::now();
    const std::string said = network_->host.sh(fmt::format(
        "{}; unshare -m sh -c 'mount --bind {} /etc/hosts && {} doctor --peer both' ||:", before,
        names, PSPCTL_PATH));
    EXPECT_LT(std::chrono::steady_clock::now() - begin, kPatience) << said;
    return said;
  };
  const auto expect_both = [](const std::string& said, const std::string& what) {
    const std::size_t first = said.find(what);
    EXPECT_NE(first, std::string::npos) << said;
    EXPECT_NE(said.find(what, first + 1), std::string::npos) << said;
  };
  expect_both(ask("true"), "FAIL peer-mtu: ");
  network_->router.sh("ip addr del 10.77.1.254/24 dev ra; ip addr del fd77:1::254/64 dev ra");
  expect_both(ask("ip neigh flush dev eth0; ip -6 neigh flush dev eth0"),
              "FAIL peer-udp: the gateway");
  std::remove(names.c_str());
}

TEST_F(Doctor, DoesNotCallGoodWhatItMayNotTry) {
  expect_well(kPeer);
  const std::string said = network_->host.sh(
      fmt::format("setpriv --inh-caps=-all --bounding-set=-all {} doctor --peer {}; echo status $?",
                  PSPCTL_PATH, kPeer));
  EXPECT_NE(said.find("FAIL peer-udp: not tried: needs CAP_NET_RAW"), std::string::npos) << said;
  EXPECT_NE(said.find("status 1"), std::string::npos) << said;
}

TEST_F(Doctor, TellsAContainerThatItNeedsAnAssociation) {
  const Netns& inside = network_->container;
  const std::string pid = inside.sh("sleep 60 >/dev/null 2>&1 & echo $!");
  expect_said(
      {"a container that is not associated",
       "FAIL peer-route: 10.77.2.1 is reached by eth0, which has no PSP device",
       "in a container: on its host, pspctl dev assoc DEVICE netdev eth0 pid N (a process in "
       "it); on a host: pspd --dev eth0",
       {},
       {}},
      inside);
  network_->ctl(network_->host, "dev assoc eth0 netdev eth0 pid " + pid);
  expect_said({"a container that is associated",
               "ok   peer-udp: 10.77.2.1 answers: PSP packets pass in both directions",
               "",
               {},
               {}},
              inside);
  ::kill(std::stoi(pid), SIGTERM);
}

}  // namespace
}  // namespace psp::lab
