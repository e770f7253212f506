// SPDX-License-Identifier: Apache-2.0
//
// The maps that pspd keeps of secured sockets, which anybody can have, are bounded: what takes an
// entry and what does not, who goes without one, and that he has his turn later.
//
// The oracle is the number of entries in pspd's maps, read by the test. The threat is a user who
// takes all: by many sockets, by one that connects again and again, by an SPI that somebody else
// has. The bound is 1024 here (--max-connections), so that it can be reached; time is put forward.
// What is refused goes on in clear and is told so.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <map>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lifetime_hosts.hh"

namespace psp::lab {
namespace {

class Limits : public testing::TestWithParam<int> {
 protected:
  static constexpr std::size_t kMost = 1024;

  void SetUp() override {
    PSP_NEEDS_LAB();
    hosts_.emplace(std::vector<std::string>{"--max-connections", std::to_string(kMost)});
    const InNetns inside(hosts_->ns(From::kB));
    listener_.reset(::socket(GetParam(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    Address any = address_of(From::kB, GetParam());
    ASSERT_EQ(::bind(listener_.get(), any.get(), any.length), 0);
    ASSERT_EQ(::listen(listener_.get(), 64), 0);
    client_.emplace(hosts_->client(From::kA));
  }
  struct Ends {
    UniqueFd a, b;
  };
  Ends connect() {
    Address peer;
    ::getsockname(listener_.get(), peer.get(), &peer.length);
    Ends ends;
    const InNetns inside(hosts_->ns(From::kA));
    ends.a.reset(::socket(GetParam(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(ends.a.get(), peer.get(), peer.length), 0) << std::strerror(errno);
    ends.b.reset(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    return ends;
  }
  ClientResult<void> secure(const Ends& ends) {
    const auto rx = client_->rx_assoc(ends.a.get(), Version::kAesGcm128);
    if (!rx) return std::unexpected(rx.error());
    return client_->tx_assoc(ends.a.get(), Version::kAesGcm128, rx->rx);
  }
  std::map<std::string, std::size_t> entries() { return entries_of(hosts_->pspd(From::kA).pid()); }
  void expect_entries(std::size_t number) {
    for (const char* map : {"psp_departed", "psp_by_tx_spi", "psp_noted"})
      EXPECT_EQ(entries()[map], number) << map;
  }

  std::optional<Hosts> hosts_;
  UniqueFd listener_;
  std::optional<Client> client_;
  const KeyInfo key_ = random_key(Version::kAesGcm128);
};

// By the Tx SPI the connection is found that an ICMP message speaks of. Anybody can say that an SPI
// is his.
TEST_P(Limits, AnSpiThatTwoConnectionsClaimStaysTheFirstOnes) {
  const Ends first = connect();
  Ends second = connect();
  for (const Ends* ends : {&first, &std::as_const(second)}) {
    ASSERT_TRUE(client_->rx_assoc(ends->a.get(), Version::kAesGcm128));
    ASSERT_TRUE(client_->tx_assoc(ends->a.get(), Version::kAesGcm128, key_));
  }
  EXPECT_EQ(entries()["psp_by_tx_spi"], 1u);
  const linger at_once = {1, 0};  // nobody at B would understand its FIN
  ::setsockopt(second.a.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  second.a.reset();
  const auto gone = [&] {
    hosts_->skip(kAfterTimeWait);
    return entries()["psp_noted"] == 1;
  };
  EXPECT_TRUE(eventually(gone, 20s));
  expect_entries(1);
}

TEST_P(Limits, ASocketThatReconnectsAgainAndAgainTakesOneEntry) {
  Ends ends = connect();
  ASSERT_TRUE(secure(ends));
  expect_entries(1);
  Address peer = address_of(From::kB, GetParam());
  ::fcntl(ends.a.get(), F_SETFL, O_NONBLOCK);
  unsigned begun = 0;
  for (std::uint16_t port = 1; port <= 5000; port++) {
    const sockaddr nobody{.sa_family = AF_UNSPEC, .sa_data = {}};
    ASSERT_EQ(::connect(ends.a.get(), &nobody, sizeof nobody), 0);
    reinterpret_cast<sockaddr_in&>(peer.name).sin_port = htons(port);  // where IPv6 has it too
    begun += ::connect(ends.a.get(), peer.get(), peer.length) != 0 && errno == EINPROGRESS;
  }
  EXPECT_EQ(begun, 5000u);
  expect_entries(1);
  ends = {};
  const auto gone = [&] {
    hosts_->skip(kAfterTimeWait);
    return entries()["psp_noted"] == 0;
  };
  EXPECT_TRUE(eventually(gone, 20s));
  expect_entries(0);
}

TEST_P(Limits, TheSocketThatIsOneTooManyGoesOnInClearAndHasItsTurnLater) {
  std::vector<Ends> secured;
  while (secured.size() < kMost) {
    secured.push_back(connect());
    const auto done = secure(secured.back());
    ASSERT_TRUE(done) << secured.size() << ": " << done.error().message;
  }
  const Ends one_more = connect();
  for (int attempt = 0; attempt < 2; attempt++) {
    const auto rx = client_->rx_assoc(one_more.a.get(), Version::kAesGcm128);
    EXPECT_EQ(rx.has_value(), attempt == 0);
    const auto refused = client_->tx_assoc(one_more.a.get(), Version::kAesGcm128, key_);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().sys_errno, ENOSPC);
    EXPECT_NE(refused.error().message.find("Too many secured sockets"), std::string::npos)
        << refused.error().message;
    expect_entries(kMost);
    const Octets text = octets_of("in clear, there and back");
    send_all(one_more.a.get(), text);
    EXPECT_EQ(receive(one_more.b.get(), text.size()), text);
    send_all(one_more.b.get(), text);
    EXPECT_EQ(receive(one_more.a.get(), text.size()), text);
  }
  const std::string full = "no room for another secured connection";
  Pspd& pspd = hosts_->pspd(From::kA);
  EXPECT_TRUE(pspd.wait_said(full, 0)) << pspd.log();
  EXPECT_EQ(pspd.log().find(full, pspd.log().find(full) + 1), std::string::npos) << pspd.log();
  EXPECT_GT(daemon_info(*client_)->devices.at(0).refused, 0u);
  // B has no keys: what it can read came in clear.
  for (const Ends& ends : secured) send_all(ends.a.get(), octets_of("sealed"));
  for (const Ends& ends : secured) EXPECT_EQ(pending(ends.b.get()), Octets());
  secured.clear();
  const auto has_its_turn = [&] {
    hosts_->skip(kAfterTimeWait);
    return client_->tx_assoc(one_more.a.get(), Version::kAesGcm128, key_).has_value();
  };
  EXPECT_TRUE(eventually(has_its_turn, 30s));
  send_all(one_more.a.get(), octets_of("sealed"));
  EXPECT_EQ(receive(one_more.b.get(), 1, 300ms), Octets());
}

// An unprivileged user has half of them, whatever he does; what is left is for others.
TEST_P(Limits, AUserWhoIsNotRootHasHalfOfThem) {
  constexpr uid_t kNobody = 65534;
  const auto as_nobody = [&] {
    if (::setgroups(0, nullptr) != 0 || ::setresgid(kNobody, kNobody, kNobody) != 0 ||
        ::setresuid(kNobody, kNobody, kNobody) != 0)
      return 10;
    auto client = Client::connect_daemon("@softpsp");
    if (!client) return 11;
    Address peer;
    ::getsockname(listener_.get(), peer.get(), &peer.length);
    std::vector<Ends> secured;
    for (;;) {
      Ends ends;
      ends.a.reset(::socket(GetParam(), SOCK_STREAM | SOCK_CLOEXEC, 0));
      if (::connect(ends.a.get(), peer.get(), peer.length) != 0) return 12;
      ends.b.reset(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      const auto rx = client->rx_assoc(ends.a.get(), Version::kAesGcm128);
      if (!rx && rx.error().sys_errno != EDQUOT) return 13;
      if (!rx) return secured.size() == kMost / 2 ? 0 : 14;
      if (!client->tx_assoc(ends.a.get(), Version::kAesGcm128, rx->rx)) return 15;
      secured.push_back(std::move(ends));
    }
  };
  const InNetns inside(hosts_->ns(From::kA));
  const pid_t child = ::fork();
  if (child == 0) ::_exit(as_nobody());
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0) << WEXITSTATUS(status);
  const std::string why =
      fmt::format("rx-assoc of uid {0}, pid {1} refused (EDQUOT): uid {0}, or its container, has",
                  kNobody, child);
  Pspd& pspd = hosts_->pspd(From::kA);
  EXPECT_NE(pspd.log().find(why), std::string::npos) << pspd.log();
  Client roots = hosts_->client(From::kA);
  const auto info = daemon_info(roots);
  ASSERT_TRUE(info);
  EXPECT_EQ(info->devices.at(0).refused, 1u);
  EXPECT_TRUE(secure(connect())) << "root's";
}

INSTANTIATE_TEST_SUITE_P(Families, Limits, testing::Values(AF_INET, AF_INET6),
                         [](const auto& one) { return one.param == AF_INET ? "Ipv4" : "Ipv6"; });

}  // namespace
}  // namespace psp::lab
