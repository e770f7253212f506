// SPDX-License-Identifier: Apache-2.0
//
// The hosts that pspctl doctor is asked about, and what is wrong with them: a Situation is made,
// looked at, mended as doctor advises, and looked at again.
//
//   host eth0 --- ra router rb --- eth0 peer        host eth1 --- rc router
//   container eth0 --- vc0 host
#pragma once

#include <chrono>
#include <csignal>
#include <fmt/format.h>
#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <iterator>
#include <optional>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

#include "lab.hh"

namespace psp::lab {

constexpr const char* kPeer = "10.77.2.1";
constexpr const char* kPeer6 = "fd77:2::1";
// What an operator is promised, whatever is wrong.
constexpr std::chrono::seconds kPatience(3);

// Network is the hosts and their pspds.
class Network {
 public:
  Network();
  void start_host() { start(host_pspd, host, {}); }
  void start_peer(const std::vector<std::string>& more = {}) { start(peer_pspd, peer, more); }
  // start_neighbour makes a third host of the router, on the host's own link.
  void start_neighbour(const std::string& address) {
    router.sh(fmt::format("ip addr add {}/24 dev ra", address));
    neighbour_pspd.emplace(router, std::vector<std::string>{"--dev", "ra", "--enable", "all"});
    ASSERT_TRUE(neighbour_pspd->wait_ready()) << neighbour_pspd->log();
  }
  std::string ctl(const Netns& netns, const std::string& words) const {
    return netns.sh(fmt::format("{} {}", PSPCTL_PATH, words));
  }
  // doctor gives what it prints, and whether nothing FAILed.
  std::pair<std::string, bool> doctor(const Netns& netns, const std::string& to) const {
    const auto begin = std::chrono::steady_clock::now();
    const std::string said =
        netns.sh(fmt::format("{} doctor --peer {}; echo status $?", PSPCTL_PATH, to));
    EXPECT_LT(std::chrono::steady_clock::now() - begin, kPatience) << said;
    return {said, said.ends_with("status 0\n")};
  }

  Netns host, router, peer, container;
  std::optional<Pspd> host_pspd, peer_pspd, neighbour_pspd;

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

inline Network::Network() {
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

}  // namespace psp::lab
