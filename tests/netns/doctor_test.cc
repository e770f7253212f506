// SPDX-License-Identifier: Apache-2.0
//
// What pspctl doctor --peer says in broken situations: each is made, looked at, mended as doctor
// advises, and looked at again. The table in docs/operations.md is held to what is seen here.
//
//   host eth0 --- ra router rb --- eth0 peer        host eth1 --- rc router
//   container eth0 --- vc0 host
#include <csignal>
#include <fmt/format.h>
#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <iterator>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lab.hh"

namespace psp::lab {
namespace {

constexpr const char* kPeer = "10.77.2.1";
constexpr const char* kPeer6 = "fd77:2::1";

// Network is the hosts and their pspds.
class Network {
 public:
  Network();
  void start_host() { start(host_pspd, host, {}); }
  void start_peer(const std::vector<std::string>& more = {}) { start(peer_pspd, peer, more); }
  std::string ctl(const Netns& netns, const std::string& words) const {
    return netns.sh(fmt::format("{} {}", PSPCTL_PATH, words));
  }
  // doctor gives what it prints, and whether nothing FAILed.
  std::pair<std::string, bool> doctor(const Netns& netns, const std::string& to) const {
    const std::string said =
        netns.sh(fmt::format("{} doctor --peer {}; echo status $?", PSPCTL_PATH, to));
    return {said, said.ends_with("status 0\n")};
  }

  Netns host, router, peer, container;
  std::optional<Pspd> host_pspd, peer_pspd;

 private:
  static void start(std::optional<Pspd>& pspd, const Netns& netns,
                    const std::vector<std::string>& more) {
    std::vector<std::string> words = {"--dev", "eth0", "--enable", "all"};
    words.insert(words.end(), more.begin(), more.end());
    pspd.reset();
    pspd.emplace(netns, words);
    ASSERT_TRUE(pspd->wait_ready()) << pspd->log();
  }
};

Network::Network() {
  const auto path = [](const Netns& netns) {
    return fmt::format("/proc/{}/fd/{}", ::getpid(), netns.fd());
  };
  const auto join = [&](const Netns& a, const char* a_end, const Netns& b, const char* b_end,
                        unsigned net, unsigned a_number) {
    a.sh(fmt::format("ip link add {} type veth peer name {} netns {}", a_end, b_end, path(b)));
    for (const auto& [netns, end, number] :
         {std::tuple(&a, a_end, a_number), std::tuple(&b, b_end, 254u)})
      netns->sh(
          fmt::format("ip addr add 10.77.{1}.{2}/24 dev {0} && "
                      "ip addr add fd77:{1}::{2}/64 dev {0} nodad && ip link set {0} up",
                      end, net, number));
  };
  join(host, "eth0", router, "ra", 1, 1);
  join(peer, "eth0", router, "rb", 2, 1);
  join(host, "eth1", router, "rc", 3, 1);
  join(container, "eth0", host, "vc0", 4, 1);
  for (const Netns* netns : {&router, &host}) {
    write_sysctl(*netns, "net/ipv4/ip_forward", "1");
    write_sysctl(*netns, "net/ipv6/conf/all/forwarding", "1");
  }
  router.sh("ip route add 10.77.4.0/24 via 10.77.1.1");
  for (const auto& [netns, net] :
       {std::pair(&host, 1), std::pair(&peer, 2), std::pair(&container, 4)})
    netns->sh(
        fmt::format("ip route add default via 10.77.{0}.254 && "
                    "ip -6 route add default via fd77:{0}::254",
                    net));
}

// Situation is made, and then mended as doctor advises; after that nothing FAILs.
struct Situation {
  const char* what;     // as docs/operations.md says it
  const char* verdict;  // a line of doctor
  const char* advice;   // the next one; empty: it is no fault
  std::function<void(Network&)> make, mend;
  const char* to = kPeer;
  const char* to_after = nullptr;  // an address that is right
};

// rule is a firewall on the router that is made and mended.
Situation rule(const char* what, const char* verdict, const char* advice, std::string chain,
               const char* to = kPeer) {
  return {what,
          verdict,
          advice,
          [chain](Network& n) {
            n.router.sh("nft add table inet t && nft 'add chain inet t c { type " +
                        chain.substr(0, chain.find('|')) + "; }' && nft 'add rule inet t c " +
                        chain.substr(chain.find('|') + 1) + "'");
          },
          [](Network& n) { n.router.sh("nft delete table inet t"); },
          to};
}

constexpr const char* kForward = "filter hook forward priority 0|";
constexpr const char* kNat = "nat hook postrouting priority 100|";
constexpr const char* kSilent =
    "FAIL peer-udp: 10.77.2.1 is there (it answers a ping), but not a probe: UDP to port 1000 is "
    "dropped on the way, or not taken there";
constexpr const char* kOpenUdp =
    "allow UDP to port 1000 between the hosts in both directions; there, pspctl -s stats show: "
    "PROBE grows if only the way back is closed, PEER_NOT_ALLOWED if its --allow-peers lacks this "
    "host";
constexpr const char* kNoNat =
    "PSP does not pass it: give both hosts addresses that are routed, and except what is between "
    "them from translation";
constexpr const char* kNoPsp =
    "FAIL peer-udp: 10.77.2.1 has no PSP: it says that UDP port 1000 is closed";
constexpr const char* kStartThere =
    "there: start pspd (pspd --dev IFNAME --enable all); if it runs, pspctl dev set IFNAME "
    "psp-versions-ena all";

std::vector<Situation> faults_of_the_hosts() {
  return {
      {"no pspd on the peer", kNoPsp, kStartThere, [](Network& n) { n.peer_pspd.reset(); },
       [](Network& n) { n.start_peer(); }},
      {"pspd on the peer, no version enabled", kNoPsp, kStartThere,
       [](Network& n) { n.ctl(n.peer, "dev set eth0 psp-versions-ena none"); },
       [](Network& n) { n.ctl(n.peer, "dev set eth0 psp-versions-ena all"); }},
      {"no version enabled here",
       "FAIL peer-versions: this host receives none, that one "
       "hdr0-aes-gcm-128,hdr0-aes-gcm-256,hdr0-aes-gmac-128,hdr0-aes-gmac-256: no version in "
       "common",
       "here: pspctl dev set eth0 psp-versions-ena "
       "hdr0-aes-gcm-128,hdr0-aes-gcm-256,hdr0-aes-gmac-128,hdr0-aes-gmac-256",
       [](Network& n) { n.ctl(n.host, "dev set eth0 psp-versions-ena none"); },
       [](Network& n) { n.ctl(n.host, "dev set eth0 psp-versions-ena all"); }},
      {"different versions enabled",
       "FAIL peer-versions: this host receives hdr0-aes-gcm-128, that one hdr0-aes-gcm-256: no "
       "version in common",
       "here: pspctl dev set eth0 psp-versions-ena hdr0-aes-gcm-128,hdr0-aes-gcm-256",
       [](Network& n) {
         n.ctl(n.host, "dev set eth0 psp-versions-ena 0");
         n.ctl(n.peer, "dev set eth0 psp-versions-ena 1");
       },
       [](Network& n) {
         n.ctl(n.host, "dev set eth0 psp-versions-ena hdr0-aes-gcm-128,hdr0-aes-gcm-256");
       }},
      {"the peer's --allow-peers lacks this host", kSilent, kOpenUdp,
       [](Network& n) {
         n.start_peer({"--allow-peers", "10.99.0.0/16"});
       },
       [](Network& n) {
         n.start_peer({"--allow-peers", "10.77.0.0/16"});
       }},
      {"pspd on the peer hangs", kSilent, kOpenUdp,
       [](Network& n) { ::kill(n.peer_pspd->pid(), SIGSTOP); },
       [](Network& n) {
         ::kill(n.peer_pspd->pid(), SIGCONT);
         n.start_peer();
       }},
      {"a firewall rule of this host for UDP 1000 (PSP is below it)",
       "ok   peer-udp: 10.77.2.1 answers: PSP packets pass in both directions", "",
       [](Network& n) {
         n.host.sh(
             "nft add table inet t && nft 'add chain inet t o { type filter hook output "
             "priority 0; }' && nft 'add chain inet t i { type filter hook input priority 0; "
             "}' && nft add rule inet t o udp dport 1000 drop && nft add rule inet t i udp "
             "dport 1000 drop");
       },
       [](Network& n) { n.host.sh("nft delete table inet t"); }},
      {"the netdev is down", "FAIL eth0: the netdev is down", "ip link set eth0 up",
       [](Network& n) { n.host.sh("ip link set eth0 down"); },
       [](Network& n) {
         n.host.sh("ip link set eth0 up && ip route add default via 10.77.1.254");
       }},
      {"no route", "FAIL peer-route: 10.77.2.1: Network is unreachable", "ip route get 10.77.2.1",
       [](Network& n) { n.host.sh("ip route del default"); },
       [](Network& n) { n.host.sh("ip route add default via 10.77.1.254"); }},
      {"the route leads by another netdev",
       "FAIL peer-route: 10.77.2.1 is reached by eth1, which has no PSP device",
       "restart pspd with --dev eth1 as well; or for the netdev of a container, or another way to "
       "the same network: pspctl dev assoc DEVICE netdev eth1 (pid N)",
       [](Network& n) { n.host.sh("ip route add 10.77.2.0/24 via 10.77.3.254"); },
       [](Network& n) {
         n.router.sh("ip route add 10.77.3.0/24 dev rc 2>/dev/null || true");
         n.ctl(n.host, "dev assoc eth0 netdev eth1");
       }},
      {"the route leads by a netdev that dev assoc named",
       "ok   peer-route: 10.77.2.1 is reached by eth1, a PSP device", "", [](Network&) {},
       [](Network& n) {
         n.host.sh("ip route del 10.77.2.0/24");
         n.ctl(n.host, "dev disassoc eth0 netdev eth1");
       }},
      {"an address of this host",
       "FAIL peer-route: 10.77.1.1 is this host's own address: its packets stay on lo, where there "
       "is no PSP",
       "name another host; to try PSP on one machine: two network namespaces, as make demo has "
       "them",
       [](Network&) {}, [](Network&) {}, "10.77.1.1", kPeer},
  };
}

std::vector<Situation> faults_of_the_way() {
  const std::string forward = kForward;
  const auto small_link = [](Network& n) { n.router.sh("ip link set rb mtu 1400"); };
  return {
      rule("UDP 1000 dropped on the way there", kSilent, kOpenUdp,
           forward + "iif ra udp dport 1000 drop"),
      rule("UDP 1000 dropped on the way back", kSilent, kOpenUdp,
           forward + "iif rb udp dport 1000 drop"),
      rule("UDP 1000 dropped for IPv6 only",
           "FAIL peer-udp: fd77:2::1 is there (it answers a ping), but not a probe: UDP to port "
           "1000 is dropped on the way, or not taken there",
           kOpenUdp, forward + "meta nfproto ipv6 udp dport 1000 drop", kPeer6),
      rule("UDP 1000 rejected on the way",
           "FAIL peer-udp: a firewall at 10.77.1.254 refuses UDP to port 1000",
           "allow UDP to port 1000 there, in both directions",
           forward + "udp dport 1000 reject with icmpx type admin-prohibited"),
      rule("everything dropped on the way",
           "FAIL peer-udp: no sign of 10.77.2.1: it answers neither a probe nor a ping",
           "is it up, and that its address? else something on the way drops all: traceroute -n "
           "10.77.2.1",
           forward + "ip daddr 10.77.2.0/24 drop"),
      // By IPv6: the router would go on to translate what it has seen of IPv4 before.
      rule(
          "a firewall that keeps state lets only replies pass",
          "FAIL peer-udp: fd77:2::1 can only reply: a firewall on the way that keeps state lets no "
          "packet to UDP port 1000 pass by itself, as PSP must",
          "allow UDP to port 1000 there in both directions, from any port",
          forward + "iif rb ct state new udp dport 1000 drop", kPeer6),
      rule("this host's address translated (SNAT, masquerading)",
           "FAIL peer-udp: 10.77.2.1: addresses are translated on the way: 10.77.1.1 arrived there "
           "as 10.77.2.254",
           kNoNat, kNat + std::string("oif rb masquerade")),
      {"the peer's address translated (DNAT)",
       "FAIL peer-udp: 10.77.9.9: addresses are translated on the way: that host is 10.77.2.1",
       kNoNat,
       [](Network& n) {
         n.router.sh(
             "nft add table ip t && nft 'add chain ip t c { type nat hook prerouting "
             "priority -100; }' && nft add rule ip t c ip daddr 10.77.9.9 dnat to "
             "10.77.2.1");
       },
       [](Network& n) { n.router.sh("nft delete table ip t"); }, "10.77.9.9", kPeer},
      {"a smaller path MTU, which routers tell",
       "ok   peer-mtu: packets of 1400 octets pass in both directions, as routers on the way say",
       "", small_link, [](Network& n) { n.router.sh("ip link set rb mtu 1500"); }},
      {"a smaller path MTU that nobody tells (black hole)",
       "FAIL peer-mtu: packets of 1500 octets are lost on the way to 10.77.2.1, those of 1400 are "
       "not, and no router says so",
       "let them pass, or: ip route replace 10.77.2.1 via 10.77.1.254 dev eth0 mtu 1400",
       [small_link](Network& n) {
         small_link(n);
         n.router.sh(
             "nft add table inet t && nft 'add chain inet t c { type filter hook output "
             "priority 0; }' && nft add rule inet t c icmp type destination-unreachable "
             "drop");
       },
       [](Network& n) {
         n.host.sh("ip route replace 10.77.2.1 via 10.77.1.254 dev eth0 mtu 1400");
       }},
      {"the same on the way back only",
       "FAIL peer-mtu: packets of 1500 octets are lost on the way back from 10.77.2.1, those of "
       "1400 are not",
       "let them pass, or here: ip route replace 10.77.2.1 via 10.77.1.254 dev eth0 mtu 1400",
       [](Network& n) {
         n.router.sh(
             "ip link set rb mtu 1500 && nft flush chain inet t c && nft 'add chain inet t "
             "f { type filter hook forward priority 0; }' && nft add rule inet t f iif rb "
             "ip length gt 1400 drop");
         n.host.sh("ip route del 10.77.2.1");
       },
       [](Network& n) {
         n.host.sh("ip route replace 10.77.2.1 via 10.77.1.254 dev eth0 mtu 1400");
       }},
      {"packets come back by a netdev without PSP device",
       "FAIL peer-udp: what 10.77.2.1 sends comes back by eth1, which has no PSP device",
       "pspctl dev assoc eth0 netdev eth1, or have it come back by eth0",
       [](Network& n) {
         n.router.sh("nft delete table inet t && ip route add 10.77.1.1 via 10.77.3.1");
         n.host.sh("ip route del 10.77.2.1");
       },
       [](Network& n) {
         EXPECT_NE(n.ctl(n.host, "-s stats show").find("UNCLAIMED"), std::string::npos);
         n.ctl(n.host, "dev assoc eth0 netdev eth1");
       }},
      {"no such host on the link",
       "FAIL peer-udp: 10.77.1.77 is not on the link of eth0: nobody answers for its address",
       "is it up, and that its address? ip neigh show dev eth0",
       [](Network& n) {
         n.router.sh("ip route del 10.77.1.1");
         n.ctl(n.host, "dev disassoc eth0 netdev eth1");
       },
       [](Network&) {}, "10.77.1.77", kPeer},
      {"no such host behind a router",
       "FAIL peer-udp: no sign of 10.77.2.77: it answers neither a probe nor a ping",
       "is it up, and that its address? else something on the way drops all: traceroute -n "
       "10.77.2.77",
       [](Network&) {}, [](Network&) {}, "10.77.2.77", kPeer},
      {"the peer's link is down", "FAIL peer-udp: 10.77.1.254 says that it cannot reach 10.77.2.1",
       "is that host up? if so, look at the routes of 10.77.1.254",
       [](Network& n) { n.router.sh("ip link set rb down"); },
       [](Network& n) { n.router.sh("ip link set rb up"); }},
      {"the gateway is gone",
       "FAIL peer-udp: the gateway 10.77.1.254 is not on the link of eth0: nobody answers for its "
       "address",
       "is it up, and that its address? ip neigh show dev eth0",
       [](Network& n) {
         n.router.sh("ip addr del 10.77.1.254/24 dev ra");
         n.host.sh("ip neigh flush dev eth0");
       },
       [](Network& n) {
         n.router.sh(
             "ip addr add 10.77.1.254/24 dev ra && ip route add 10.77.4.0/24 via "
             "10.77.1.1");
       }},
  };
}

class Doctor : public testing::Test {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    network_.emplace();
    network_->start_host();
    network_->start_peer();
    ASSERT_FALSE(HasFatalFailure());
    std::ifstream file(PSP_OPERATIONS_MD);
    operations_.assign(std::istreambuf_iterator<char>(file), {});
  }
  void TearDown() override {
    for (auto* pspd : {&network_->host_pspd, &network_->peer_pspd})
      if (network_ && pspd->has_value()) ::kill((*pspd)->pid(), SIGCONT);
  }

  void expect_well(const std::string& to) {
    const auto [said, well] = network_->doctor(network_->host, to);
    EXPECT_TRUE(well) << said;
    EXPECT_NE(said.find("ok   peer-udp"), std::string::npos) << said;
  }
  void look_at(const Situation& one) {
    SCOPED_TRACE(one.what);
    one.make(*network_);
    expect_said(one, network_->host);
    one.mend(*network_);
    expect_well(one.to_after != nullptr ? one.to_after : one.to);
  }
  // expect_said: those lines, and the row of the table.
  void expect_said(const Situation& one, const Netns& where) {
    const auto [said, well] = network_->doctor(where, one.to);
    const bool fault = *one.advice != '\0';
    EXPECT_NE(well, fault) << said;
    const std::string lines = fault ? fmt::format("{}\n     -> {}\n", one.verdict, one.advice)
                                    : fmt::format("{}\n", one.verdict);
    EXPECT_NE(said.find(lines), std::string::npos) << "wanted:\n" << lines << "said:\n" << said;
    const std::string row = fmt::format("| {} | `{}` | {} |\n", one.what, one.verdict,
                                        fault ? fmt::format("`{}`", one.advice) : "");
    EXPECT_NE(operations_.find(row), std::string::npos) << "docs/operations.md lacks:\n" << row;
  }

  std::optional<Network> network_;
  std::string operations_;
};

TEST_F(Doctor, TellsWhatIsWrongWithTheHostsAndItsRemedyHelps) {
  expect_well(kPeer);
  expect_well(kPeer6);
  for (const Situation& one : faults_of_the_hosts()) look_at(one);
}

TEST_F(Doctor, TellsWhatIsWrongOnTheWayAndItsRemedyHelps) {
  for (const Situation& one : faults_of_the_way()) look_at(one);
}

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

TEST_F(Doctor, TellsAContainerThatItNeedsAnAssociation) {
  const Netns& inside = network_->container;
  const std::string pid = inside.sh("sleep 60 >/dev/null 2>&1 & echo $!");
  expect_said({"a container that is not associated",
               "FAIL peer-route: 10.77.2.1 is reached by eth0, which has no PSP device",
               "restart pspd with --dev eth0 as well; or for the netdev of a container, or another "
               "way to the same network: pspctl dev assoc DEVICE netdev eth0 (pid N)",
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
