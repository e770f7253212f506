// SPDX-License-Identifier: Apache-2.0
//
// Associations in any TCP state when the request names the device, as in all released kernels. What
// a socket was given before it had a peer must hold through connect().
//
// The oracle is the released kernels' rule (--compat linux-7.2), and net-next's beside it, which
// wants a connection first. On the cable a SYN must be sealed once there is a Tx key, and repeated
// sealed; two such sockets can only meet by a simultaneous open, which is done here. Sockets of
// IPv4 and IPv6.
#include <arpa/inet.h>
#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <fmt/format.h>
#include <fstream>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "device/state_table.h"

#include "lab.hh"

namespace psp::lab {
namespace {

constexpr Version kVersion = Version::kAesGcm128;
constexpr int kPort = 4000;

// Address is of one of the hosts, in the lab's two families.
struct Address {
  Address(From side, Kind kind, std::uint16_t port) {
    const std::string text = Lab::address(side, kind);
    auto* v4 = reinterpret_cast<sockaddr_in*>(&name);
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&name);
    v4->sin_port = htons(port);  // at the same place in both
    name.ss_family = kind == Kind::kIpv4 ? AF_INET : AF_INET6;
    ::inet_pton(name.ss_family, text.c_str(),
                kind == Kind::kIpv4 ? static_cast<void*>(&v4->sin_addr) : &v6->sin6_addr);
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&name); }
  static constexpr socklen_t length = sizeof(sockaddr_in6);
  sockaddr_storage name{};
};

class Compat : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    lab_.emplace();
  }
  void start(const std::string& compat) {
    for (const From side : {From::kA, From::kB}) {
      lab_->start(side, {"--compat", compat});
      device_[side == From::kB] = lab_->client(side).devices().value().at(0).id;
    }
  }
  std::uint32_t device(From side) const { return device_[side == From::kB]; }
  // socket is one of a host, bound if it has a port.
  UniqueFd socket(From side, std::uint16_t port = 0) {
    const InNetns inside(lab_->ns(side));
    UniqueFd fd(
        ::socket(GetParam() == Kind::kIpv4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int on = 1;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    const Address own(side, GetParam(), port);
    if (port != 0 && ::bind(fd.get(), own.get(), Address::length) != 0)
      ADD_FAILURE() << "bind: " << errno;
    return fd;
  }
  int connect(int fd, From to, std::uint16_t port) {
    const Address peer(to, GetParam(), port);
    return ::connect(fd, peer.get(), Address::length);
  }
  ClientResult<RxAssocInfo> rx_assoc(From side, int fd) {
    return lab_->client(side).rx_assoc(fd, kVersion, device(side));
  }
  ClientResult<void> tx_assoc(From side, int fd, const KeyInfo& key) {
    return lab_->client(side).tx_assoc(fd, kVersion, key, device(side));
  }
  static Flow flow(std::uint16_t a_port, std::uint16_t b_port) {
    Flow flow;
    flow.family = GetParam() == Kind::kIpv4 ? 4 : 6;
    flow.a_port = a_port;
    flow.b_port = b_port;
    return flow;
  }

  std::optional<Lab> lab_;
  std::uint32_t device_[2] = {};
};

TEST_P(Compat, NetNextWantsAnEstablishedSocket) {
  start("net-next");
  const UniqueFd fd = socket(From::kA);
  const auto refused = rx_assoc(From::kA, fd.get());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().sys_errno, ENOTCONN);
}

TEST_P(Compat, AnAssociationNeedsItsDeviceNamedWhereThereIsNoRoute) {
  start("linux-7.2");
  const UniqueFd fd = socket(From::kA);
  const auto refused = lab_->client(From::kA).rx_assoc(fd.get(), kVersion);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().sys_errno, EINVAL);
  EXPECT_EQ(refused.error().missing_attribute, ".dev-id");
  EXPECT_TRUE(rx_assoc(From::kA, fd.get()));
}

TEST_P(Compat, AnRxAssociationBeforeConnectHoldsAndTheHandshakeIsInClear) {
  start("linux-7.2");
  const UniqueFd listener = socket(From::kB, kPort);
  ASSERT_TRUE(rx_assoc(From::kB, listener.get())) << "a listening socket may have one too";
  ASSERT_EQ(::listen(listener.get(), 4), 0);
  Connection connection;
  connection.a = socket(From::kA, kPort + 1);
  connection.flow = flow(kPort + 1, kPort);
  const auto a_rx = rx_assoc(From::kA, connection.a.get());
  ASSERT_TRUE(a_rx) << a_rx.error().message;
  ASSERT_EQ(connect(connection.a.get(), From::kB, kPort), 0);
  connection.b.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  EXPECT_FALSE(lab_->association(From::kB, connection.b.get())) << "the child has none";

  // Clear data is counted from the first octet on, wherever the sequence numbers begin.
  send_all(connection.b.get(), octets_of("in clear"));
  EXPECT_TRUE(eventually([&] { return send_window(connection.b.get()) != 0; }));
  pollfd readable{connection.a.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&readable, 1, 5000), 1);
  const auto b_rx = lab_->client(From::kB).rx_assoc(connection.b.get(), kVersion);
  ASSERT_TRUE(b_rx);
  EXPECT_EQ(tx_assoc(From::kA, connection.a.get(), b_rx->rx).error().sys_errno, EBUSY);
  EXPECT_EQ(receive(connection.a.get(), 8), octets_of("in clear"));
  ASSERT_TRUE(tx_assoc(From::kA, connection.a.get(), b_rx->rx));
  ASSERT_TRUE(tx_assoc(From::kB, connection.b.get(), a_rx->rx));
  const std::size_t mark = lab_->cable().mark();
  const Octets data = random_octets(20'000);
  send_all(connection.a.get(), data);
  EXPECT_EQ(receive(connection.b.get(), data.size()), data);
  send_all(connection.b.get(), data);
  EXPECT_EQ(receive(connection.a.get(), data.size()), data);
  expect_nothing_in_clear(*lab_, connection.flow, mark, data);
}

TEST_P(Compat, ATxAssociationBeforeConnectSealsTheSyn) {
  start("linux-7.2");
  const UniqueFd listener = socket(From::kB, kPort);
  ASSERT_EQ(::listen(listener.get(), 4), 0);
  const UniqueFd fd = socket(From::kA, kPort + 1);
  ASSERT_TRUE(rx_assoc(From::kA, fd.get()));
  const KeyInfo key = random_key(kVersion);
  ASSERT_TRUE(tx_assoc(From::kA, fd.get(), key));
  ::fcntl(fd.get(), F_SETFL, O_NONBLOCK);
  const std::size_t mark = lab_->cable().mark();
  EXPECT_EQ(connect(fd.get(), From::kB, kPort), -1);
  EXPECT_EQ(errno, EINPROGRESS);
  EXPECT_TRUE(lab_->cable().find(mark, [&](const Seen& seen) {
    const auto inside = open(seen, kVersion, key);
    return inside && inside->flags == kSyn;
  }));
  std::this_thread::sleep_for(1500ms);  // one retransmission
  for (const Seen& seen : lab_->cable().since(mark))
    EXPECT_FALSE(of_flow(seen, flow(kPort + 1, kPort))) << "clear";
}

// Both ends have their keys, and connect to each other: the one way in which sockets that want PSP
// from the first packet on can meet.
TEST_P(Compat, TwoSocketsWithKeysMeetByASimultaneousOpen) {
  start("linux-7.2");
  Connection connection;
  connection.a = socket(From::kA, kPort + 1);
  connection.b = socket(From::kB, kPort);
  connection.flow = flow(kPort + 1, kPort);
  const auto a_rx = rx_assoc(From::kA, connection.a.get());
  const auto b_rx = rx_assoc(From::kB, connection.b.get());
  ASSERT_TRUE(a_rx && b_rx);
  ASSERT_TRUE(tx_assoc(From::kA, connection.a.get(), b_rx->rx));
  ASSERT_TRUE(tx_assoc(From::kB, connection.b.get(), a_rx->rx));
  const std::size_t mark = lab_->cable().mark();
  for (const int fd : {connection.a.get(), connection.b.get()}) ::fcntl(fd, F_SETFL, O_NONBLOCK);
  lab_->cable().carry(false);  // until both SYNs are out: there is nobody to answer the first
  connect(connection.a.get(), From::kB, kPort);
  connect(connection.b.get(), From::kA, kPort + 1);
  lab_->cable().carry(true);
  for (const int fd : {connection.a.get(), connection.b.get()}) {
    pollfd writable{fd, POLLOUT, 0};
    ASSERT_EQ(::poll(&writable, 1, 10'000), 1);
    EXPECT_EQ(socket_error(fd, 0ms), 0);
  }
  const Octets data = random_octets(20'000);
  send_all(connection.a.get(), data);
  EXPECT_EQ(receive(connection.b.get(), data.size()), data);
  send_all(connection.b.get(), data);
  EXPECT_EQ(receive(connection.a.get(), data.size()), data);
  EXPECT_EQ(lab_->association(From::kA, connection.a.get())->state, unsigned{PSP_STATE_FULL});
  // The end, and what TIME_WAIT answers, are sealed as those of any secured connection.
  connection.a.reset();
  EXPECT_TRUE(at_end(connection.b.get()));
  connection.b.reset();
  EXPECT_TRUE(eventually([&] {
    return lab_->client(From::kA).associations()->empty() &&
           lab_->client(From::kB).associations()->empty();
  }));
  expect_nothing_in_clear(*lab_, connection.flow, mark, data);
}

TEST_P(Compat, ASocketThatIsStillWithoutPeerKeepsThePspdsBlockInPlace) {
  start("linux-7.2");
  const UniqueFd fd = socket(From::kA, kPort + 1);
  ASSERT_TRUE(rx_assoc(From::kA, fd.get()));
  ASSERT_TRUE(tx_assoc(From::kA, fd.get(), random_key(kVersion)));
  EXPECT_EQ(lab_->pspd(From::kA).stop(), 1);
  const std::size_t mark = lab_->cable().mark();
  ::fcntl(fd.get(), F_SETFL, O_NONBLOCK);
  connect(fd.get(), From::kB, kPort);
  std::this_thread::sleep_for(300ms);
  for (const Seen& seen : lab_->cable().since(mark))
    EXPECT_FALSE(of_flow(seen, flow(kPort + 1, kPort)));
  lab_->kill(From::kA);  // for the lab to clean up
}

TEST_P(Compat, IsReadFromAFileToo) {
  const std::string path = fmt::format("/tmp/pspd-compat-{}.toml", ::getpid());
  std::ofstream(path) << "compat = \"linux-6.18\"\n";
  lab_->start(From::kA, {"--config", path});
  ::unlink(path.c_str());
  const UniqueFd fd = socket(From::kA);
  device_[0] = lab_->client(From::kA).devices().value().at(0).id;
  EXPECT_TRUE(rx_assoc(From::kA, fd.get()));
}

INSTANTIATE_TEST_SUITE_P(Families, Compat, testing::Values(Kind::kIpv4, Kind::kIpv6),
                         [](const auto& kind) { return kind_name(kind.param); });

}  // namespace
}  // namespace psp::lab
