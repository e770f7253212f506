// SPDX-License-Identifier: Apache-2.0
//
// What pspctl doctor --peer says in broken situations: each is made, looked at, mended as doctor
// advises, and looked at again. The table in docs/operations.md is held to what is seen here.
//
// Two hosts with a router between them, all of them namespaces; faults are firewalls, translation,
// routes, MTUs and daemons. The oracle is the fault that was made: the verdict must name it, word
// by word, and after the advice has been followed all must be well. Situations follow each other on
// one network, so mending must leave nothing behind.
#include <csignal>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <regex>

#include "doctor_network.hh"

namespace psp::lab {
namespace {

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
    "there, pspctl doctor: does pspd hang? if not, allow UDP to port 1000 between the hosts in "
    "both "
    "directions; there, pspctl -s stats show: PROBE grows if only the way back is closed, "
    "PEER_NOT_ALLOWED if its --allow-peers lacks this host";
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
         const std::string said = n.ctl(n.peer, "doctor --peer 10.77.1.1 || true");
         EXPECT_NE(said.find("FAIL pspd: pspd does not answer"), std::string::npos) << said;
         EXPECT_NE(said.find("-> it hangs: systemctl restart pspd"), std::string::npos) << said;
         EXPECT_EQ(said.find("no more"), std::string::npos) << said;
         EXPECT_NE(said.find("FAIL peer-route: not tried: pspd does not say"), std::string::npos)
             << said;
         ::kill(n.peer_pspd->pid(), SIGCONT);  // as systemctl does, before it waits for the end
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
      {"the netdev is down", "FAIL eth0: the netdev is down",
       "ip link set eth0 up, and its routes, which went with it, once more",
       [](Network& n) { n.host.sh("ip link set eth0 down"); },
       [](Network& n) {
         n.host.sh("ip link set eth0 up && ip route add default via 10.77.1.254");
       }},
      {"no route", "FAIL peer-route: 10.77.2.1: Network is unreachable",
       "ip route add 10.77.2.1 via GATEWAY; what there is: ip route",
       [](Network& n) { n.host.sh("ip route del default"); },
       [](Network& n) {
         n.host.sh(
             "ip route add 10.77.2.1 via 10.77.1.254 && ip route add default via 10.77.1.254");
       }},
      {"the route leads by another netdev",
       "FAIL peer-route: 10.77.2.1 is reached by eth1, which has no PSP device",
       "if eth1 is another way to the same network: pspctl dev assoc eth0 netdev eth1; else "
       "restart "
       "pspd with --dev eth1 as well",
       [](Network& n) {
         n.host.sh("ip route del 10.77.2.1; ip route add 10.77.2.0/24 via 10.77.3.254");
       },
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
       [](Network& n) { n.start_neighbour("10.77.1.77"); }, "10.77.1.77"},
      {"no such host behind a router",
       "FAIL peer-udp: no sign of 10.77.2.77: it answers neither a probe nor a ping",
       "is it up, and that its address? else something on the way drops all: traceroute -n "
       "10.77.2.77",
       [](Network& n) { n.neighbour_pspd.reset(); },
       [](Network& n) { n.peer.sh("ip addr add 10.77.2.77/24 dev eth0"); }, "10.77.2.77"},
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

TEST_F(Doctor, TellsWhatIsWrongWithTheHostsAndItsRemedyHelps) {
  expect_well(kPeer);
  expect_well(kPeer6);
  for (const Situation& one : faults_of_the_hosts()) look_at(one);
}

// Of ten packets three are lost in each direction, whatever they are. What doctor says of that
// depends on which: it tells of loss, and of nothing else.
TEST_F(Doctor, TellsLossFromAFirewall) {
  expect_well(kPeer);
  network_->router.sh(
      "nft add table inet t && nft 'add chain inet t c { type filter hook forward priority 0; }' "
      "&& nft add rule inet t c numgen random mod 10 \\< 3 drop");
  constexpr const char* kLost =
      "WARN peer-udp: 10.77.2.1 answers, but packets are lost on the way: N of M probes were "
      "answered";
  constexpr const char* kAdvice = "look where they are lost: mtr -n 10.77.2.1, from both ends";
  int told = 0;
  for (int i = 0; i < 5; i++) {
    std::string said = network_->doctor(network_->host, kPeer).first;
    EXPECT_EQ(said.find("dropped on the way"), std::string::npos) << said;
    EXPECT_EQ(said.find("can only reply"), std::string::npos) << said;
    EXPECT_EQ(said.find("FAIL peer-mtu"), std::string::npos) << said;
    said = std::regex_replace(said, std::regex("[0-9]+ of [0-9]+ probes"), "N of M probes");
    told += said.find(fmt::format("{}\n     -> {}\n", kLost, kAdvice)) != std::string::npos;
  }
  EXPECT_GT(told, 0);
  const std::string row =
      fmt::format("| three packets of ten are lost each way | `{}` | `{}` |\n", kLost, kAdvice);
  EXPECT_NE(operations_.find(row), std::string::npos) << "docs/operations.md lacks:\n" << row;
  network_->router.sh("nft delete table inet t");
  expect_well(kPeer);
}

TEST_F(Doctor, TellsWhatIsWrongOnTheWayAndItsRemedyHelps) {
  for (const Situation& one : faults_of_the_way()) look_at(one);
}

}  // namespace
}  // namespace psp::lab
