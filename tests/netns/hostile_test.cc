// SPDX-License-Identifier: Apache-2.0
//
// What somebody on the host can do to a secured connection without its keys: forge its segments by
// packet sockets, raw sockets and routes; take away its netdev or its TAP; put filters around
// pspd's. And what the peer's wire can do with clear segments just before tx-assoc.
//
// Threading: the test's thread.
#include <cstring>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/if_packet.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

#include "puppet.hh"

namespace psp::lab {
namespace {

constexpr const char* kAcceptAll = "bytecode '1,6 0 0 4294967295'";

std::string path_of(const Netns& netns) {
  return fmt::format("/proc/{}/fd/{}", ::getpid(), netns.fd());
}

class Hostile : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override { PSP_NEEDS_LAB(); }
  bool v6() const { return GetParam() == Kind::kIpv6; }
  std::string host_route(From side) const {
    return Lab::address(side, GetParam()) + (v6() ? "/128" : "/32");
  }
  // leaves tells whether a clear connection gets its data on the link.
  static bool leaves(Lab& lab, const Connection& plain, std::size_t link = 0) {
    const std::size_t mark = lab.cable(link).mark();
    send_all(plain.a.get(), octets_of("in clear"));
    return lab.cable(link)
        .find(mark,
              [&](const Seen& seen) {
                return of_flow(seen, plain.flow) && !seen.segment->payload.empty();
              })
        .has_value();
  }
  void netdev_moves(bool with_daemon);
};

// Together shares one lab among the tests of a suite, with two new connections for each test.
class Together : public testing::TestWithParam<Kind> {
 protected:
  static constexpr std::uint32_t kSent = 5, kReceived = 1;

  static void SetUpTestSuite() {
    if (missing()) return;
    lab_ = std::make_unique<Lab>(Lab::Options{.links = 2});
    lab_->start(From::kA);
    lab_->start(From::kB);
  }
  static void TearDownTestSuite() { lab_.reset(); }
  void SetUp() override {
    PSP_NEEDS_LAB();
    secured_ = lab_->connect(GetParam());
    keys_ = secure(*lab_, secured_);
    clear_ = lab_->connect(GetParam());
    for (const Connection* connection : {&secured_, &clear_}) {
      send_all(connection->a.get(), Octets(kSent, 'a'));
      ASSERT_EQ(receive(connection->b.get(), kSent).size(), kSent);
      send_all(connection->b.get(), Octets(kReceived, 'b'));
      ASSERT_EQ(receive(connection->a.get(), kReceived).size(), kReceived);
    }
  }
  bool v6() const { return GetParam() == Kind::kIpv6; }

  static inline std::unique_ptr<Lab> lab_;
  Connection secured_, clear_;
  Secured keys_;
};

// Forgery: host A and its guests speak for a connection of A's with the right sequence numbers.
class Forgery : public Together {
 protected:
  Octets forged(const Connection& connection) const {
    return clear_packet(connection.flow, From::kA,
                        {.seq = connection.flow.a_isn + 1 + kSent,
                         .ack = connection.flow.b_isn + 1 + kReceived,
                         .flags = kPsh | kAck,
                         .payload = text_});
  }
  std::uint64_t forged_drops() { return lab_->drops(From::kA, "POLICY_FORGED"); }
  std::uint64_t refused_by_b() { return lab_->association(From::kB, secured_.b.get())->rx_drops; }

  using Inject = std::function<void(const Octets&)>;
  using Count = std::function<std::uint64_t()>;
  void expect_harmless(const Inject& inject, const Count& drops);
  void by_packet_socket(const Octets& packet);
  void by_raw_socket(const Octets& packet);

  const Octets text_ = random_octets(64);
};

// The same way must be open to a clear connection, else nothing is shown.
void Forgery::expect_harmless(const Inject& inject, const Count& drops) {
  inject(forged(clear_));
  ASSERT_EQ(receive(clear_.b.get(), text_.size()), text_) << "the way is closed to everybody";
  const std::uint64_t before = drops();
  const std::size_t mark = lab_->cable().mark();
  inject(forged(secured_));
  EXPECT_TRUE(eventually([&] { return drops() == before + 1; })) << drops() - before;
  EXPECT_EQ(pending(secured_.b.get()), Octets());
  send_all(secured_.a.get(), octets_of("genuine"));
  EXPECT_EQ(receive(secured_.b.get(), 7), octets_of("genuine"));
  for (const Seen& seen : lab_->cable().since(mark)) {
    const auto inside = open(seen, kVersion, keys_.b_rx);
    EXPECT_FALSE(inside && inside->payload == text_) << "it was sealed";
  }
}

void Forgery::by_packet_socket(const Octets& packet) {
  const InNetns inside(lab_->ns(From::kA));
  const UniqueFd raw(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  sockaddr_ll to{};
  to.sll_family = AF_PACKET;
  to.sll_ifindex = static_cast<int>(::if_nametoindex("eth0"));
  Octets frame = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00};
  if (v6()) frame[12] = 0x86, frame[13] = 0xdd;
  frame.insert(frame.end(), packet.begin(), packet.end());
  EXPECT_EQ(::bind(raw.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to), 0);
  (void)::send(raw.get(), frame.data(), frame.size(), 0);  // ENOBUFS: the filter refused it
}

void Forgery::by_raw_socket(const Octets& packet) {
  const InNetns inside(lab_->ns(From::kA));
  const UniqueFd raw(::socket(v6() ? AF_INET6 : AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW));
  ASSERT_TRUE(raw);
  sockaddr_storage to{};
  to.ss_family = v6() ? AF_INET6 : AF_INET;
  if (v6())
    std::memcpy(&reinterpret_cast<sockaddr_in6&>(to).sin6_addr, packet.data() + 24, 16);
  else
    std::memcpy(&reinterpret_cast<sockaddr_in&>(to).sin_addr, packet.data() + 16, 4);
  (void)::sendto(raw.get(), packet.data(), packet.size(), 0, reinterpret_cast<sockaddr*>(&to),
                 v6() ? sizeof(sockaddr_in6) : sizeof(sockaddr_in));
}

TEST_P(Forgery, ByAPacketSocketIsNeitherSealedNorDelivered) {
  expect_harmless([this](const Octets& packet) { by_packet_socket(packet); },
                  [this] { return forged_drops(); });
}

TEST_P(Forgery, ByARawSocketIsNeitherSealedNorDelivered) {
  expect_harmless([this](const Octets& packet) { by_raw_socket(packet); },
                  [this] { return forged_drops(); });
}

// It goes on as it came, in clear, and B refuses it.
TEST_P(Forgery, ByAGuestThatTheHostRoutesForIsNeitherSealedNorDelivered) {
  Netns& host = lab_->ns(From::kA);
  write_sysctl(host, "net/ipv6/conf/all/forwarding", "1");
  write_sysctl(host, "net/ipv4/ip_forward", "1");
  write_sysctl(host, "net/ipv4/conf/eth1/accept_local", "1");
  expect_harmless([this](const Octets& packet) { lab_->cable(1).send(From::kB, packet); },
                  [this] { return refused_by_b(); });
}

INSTANTIATE_TEST_SUITE_P(Families, Forgery, testing::Values(Kind::kIpv4, Kind::kIpv6), kind_param);

class Meddling : public Together {};

TEST_P(Meddling, WithASocketOfAnotherNamespaceIsRefusedAlsoWithADeviceId) {
  auto client = lab_->client(From::kA);
  const auto devices = client.devices();
  ASSERT_TRUE(devices);
  const auto refused = client.rx_assoc(clear_.b.get(), kVersion, devices->front().id);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().sys_errno, EOPNOTSUPP) << refused.error().message;
  EXPECT_FALSE(lab_->association(From::kA, clear_.b.get()));
  EXPECT_TRUE(client.rx_assoc(clear_.a.get(), kVersion, devices->front().id));
}

TEST_P(Meddling, ByAnAcceptingFilterInFrontEndsAndTheRestIsSealed) {
  Netns& host = lab_->ns(From::kA);
  const auto mended = [&] {
    const std::string& log = lab_->pspd(From::kA).log();
    std::size_t count = 0;
    for (std::size_t at = 0; (at = log.find("or not the first in line; put back", at)) != log.npos;
         at++)
      count++;
    return count;
  };
  const std::size_t before = mended();
  const std::string filter = "dev eth0 egress prio 1 handle 0x77 bpf";
  host.sh(fmt::format("tc filter add {} {}", filter, kAcceptAll));
  EXPECT_TRUE(eventually([&] { return mended() == before + 1; })) << "it was not in front";
  const std::string filters = host.sh("tc filter show dev eth0 egress");
  const std::size_t ours = filters.find("psp_egress"), other = filters.find("bytecode");
  EXPECT_NE(other, std::string::npos) << filters;
  EXPECT_LT(ours, other) << filters;
  const std::size_t mark = lab_->cable().mark();
  const Octets data = random_octets(1000);
  send_all(secured_.a.get(), data);
  EXPECT_EQ(receive(secured_.b.get(), data.size()), data);
  expect_nothing_in_clear(*lab_, secured_.flow, mark, data);
  host.sh("tc filter del " + filter);
}

TEST_P(Meddling, ByAnAcceptingFilterBehindDoesNotStopSecuredTraffic) {
  Netns& host = lab_->ns(From::kB);
  host.sh(fmt::format("tc filter add dev eth0 ingress prio 49152 bpf {}", kAcceptAll));
  const Octets data = random_octets(1000);
  send_all(secured_.a.get(), data);
  EXPECT_EQ(receive(secured_.b.get(), data.size()), data);
  host.sh("tc filter del dev eth0 ingress prio 49152");
}

INSTANTIATE_TEST_SUITE_P(Families, Meddling, testing::Values(Kind::kIpv4, Kind::kIpv6), kind_param);

TEST_P(Hostile, ADeletedDeviceAndAnotherRouteSayNothingInClearAlsoAfterACleanStop) {
  Lab lab({.links = 2});
  lab.start(From::kA);
  lab.start(From::kB);
  auto connection = lab.connect(GetParam()), plain = lab.connect(GetParam());
  secure(lab, connection);
  Netns& host = lab.ns(From::kA);
  host.sh("ip addr add " + host_route(From::kA) + " dev lo");
  host.sh("ip link del eth0");
  host.sh(fmt::format("ip route add {} via {} dev eth1", host_route(From::kB),
                      Lab::address(From::kB, GetParam(), 1)));
  ASSERT_TRUE(eventually([&] { return lab.client(From::kA).devices().value().empty(); }));
  ASSERT_TRUE(leaves(lab, plain, 1)) << "the other way is closed to everybody";
  const std::size_t mark = lab.cable(1).mark();
  const Octets data = random_octets(1000);
  send_all(connection.a.get(), data);
  std::this_thread::sleep_for(450ms);  // retransmissions
  EXPECT_EQ(lab.stop(From::kA), 0);
  EXPECT_EQ(socket_error(connection.a.get()), ECONNABORTED);
  std::this_thread::sleep_for(300ms);
  expect_nothing_in_clear(lab, connection.flow, mark, data, 1);
}

void Hostile::netdev_moves(bool with_daemon) {
  Lab lab;
  lab.start(From::kA);
  lab.start(From::kB);
  auto connection = lab.connect(GetParam()), plain = lab.connect(GetParam());
  secure(lab, connection);
  if (!with_daemon) lab.kill(From::kA);
  const std::size_t mark = lab.cable().mark();
  Netns& host = lab.ns(From::kA);
  const Netns elsewhere;
  host.sh("ip link set eth0 netns " + path_of(elsewhere));
  if (with_daemon) {
    EXPECT_TRUE(eventually([&] { return lab.client(From::kA).devices().value().empty(); }));
  }
  const Octets data = random_octets(1000);
  send_all(connection.a.get(), data);
  elsewhere.sh("ip link set eth0 netns " + path_of(host));
  host.sh(fmt::format(
      "ip link set eth0 up && ip addr add {}/{} dev eth0 {} && ip neigh replace {} lladdr "
      "02:00:00:00:00:02 dev eth0",
      Lab::address(From::kA, GetParam()), v6() ? 64 : 24, v6() ? "nodad" : "",
      Lab::address(From::kB, GetParam())));
  ASSERT_TRUE(leaves(lab, plain)) << "the way is closed to everybody";
  send_all(connection.a.get(), data);
  std::this_thread::sleep_for(450ms);  // retransmissions
  expect_nothing_in_clear(lab, connection.flow, mark, data);
}

TEST_P(Hostile, ANetdevThatWasInAnotherNamespaceSaysNothingInClear) { netdev_moves(true); }

TEST_P(Hostile, ANetdevThatWasInAnotherNamespaceSaysNothingInClearWithoutADaemon) {
  netdev_moves(false);
}

TEST_P(Hostile, ADeletedTapEndsItsDeviceAloneAndSaysNothingInClear) {
  Lab lab;
  lab.ns(From::kA).sh("ip link add other0 type veth peer name other1 && ip link set other0 up");
  lab.start(From::kA, {"--dev", "other0"});
  lab.start(From::kB);
  auto connection = lab.connect(GetParam());
  secure(lab, connection);
  const auto devices = [&lab] { return lab.daemon_info(From::kA).devices; };
  const auto before = devices();
  ASSERT_EQ(before.size(), 2u);
  const std::size_t mark = lab.cable().mark();
  const Octets data = random_octets(1000);
  lab.cable().carry(false);  // so that it has something to send again
  send_all(connection.a.get(), data);
  lab.ns(From::kA).sh("ip link del " + before.front().tap);
  EXPECT_TRUE(eventually([&] { return devices().size() == 2 && devices()[1].id > before[1].id; }))
      << lab.pspd(From::kA).log();
  EXPECT_EQ(devices()[0].id, before[1].id) << "the other one is as it was";
  EXPECT_EQ(socket_error(connection.a.get()), ECONNABORTED);
  std::this_thread::sleep_for(300ms);
  expect_nothing_in_clear(lab, connection.flow, mark, data);
  lab.cable().carry(true);
  auto later = lab.connect(GetParam());
  secure(lab, later);
  send_all(later.a.get(), octets_of("again"));
  EXPECT_EQ(receive(later.b.get(), 5), octets_of("again"));
  EXPECT_EQ(lab.stop(From::kA), 0);
}

// Repair does with a socket what restores a process from a checkpoint (TCP_REPAIR).
class Repair {
 public:
  explicit Repair(int fd) : fd_(fd) { set(TCP_REPAIR, 1); }
  void set(int option, int value) const {
    EXPECT_EQ(::setsockopt(fd_, IPPROTO_TCP, option, &value, sizeof value), 0) << option;
  }
  void set_sequence(int queue, std::uint32_t value) const {
    set(TCP_REPAIR_QUEUE, queue);
    set(TCP_QUEUE_SEQ, static_cast<int>(value));
  }
  std::uint32_t sequence(int queue) const {
    set(TCP_REPAIR_QUEUE, queue);
    std::uint32_t value = 0;
    socklen_t length = sizeof value;
    EXPECT_EQ(::getsockopt(fd_, IPPROTO_TCP, TCP_QUEUE_SEQ, &value, &length), 0);
    return value;
  }
  tcp_repair_window window() const {
    tcp_repair_window window{};
    socklen_t length = sizeof window;
    EXPECT_EQ(::getsockopt(fd_, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, &length), 0);
    return window;
  }
  void set_window(const tcp_repair_window& window) const {
    EXPECT_EQ(::setsockopt(fd_, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, sizeof window), 0);
  }

 private:
  int fd_;
};

// restored is a socket with the 4-tuple and the numbers of one that it closes without a word. `off`
// is how TCP_REPAIR ends: 0, with a window probe, or -1.
UniqueFd restored(const Netns& host, UniqueFd old, int off) {
  sockaddr_storage own{}, peer{};
  socklen_t length = sizeof own;
  EXPECT_EQ(::getsockname(old.get(), reinterpret_cast<sockaddr*>(&own), &length), 0);
  EXPECT_EQ(::getpeername(old.get(), reinterpret_cast<sockaddr*>(&peer), &length), 0);
  const Repair from(old.get());
  const std::uint32_t sent = from.sequence(TCP_SEND_QUEUE), read = from.sequence(TCP_RECV_QUEUE);
  const tcp_repair_window window = from.window();
  old.reset();
  const InNetns inside(host);
  UniqueFd fd(::socket(own.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const Repair to(fd.get());
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&own), length), 0);
  to.set_sequence(TCP_SEND_QUEUE, sent);
  to.set_sequence(TCP_RECV_QUEUE, read);
  EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&peer), length), 0);
  to.set_window(window);
  to.set(TCP_REPAIR, off);
  return fd;
}

TEST_P(Hostile, ASocketThatIsRestoredOntoASecuredConnectionIsSilentForGood) {
  Lab lab;
  lab.start(From::kA);
  lab.start(From::kB);
  for (const int off : {0, -1}) {
    Connection connection = lab.connect(GetParam());
    secure(lab, connection);
    send_all(connection.a.get(), octets_of("x"));
    ASSERT_EQ(receive(connection.b.get(), 1), octets_of("x"));
    const std::size_t mark = lab.cable().mark();
    const std::uint32_t next = connection.flow.a_isn + 2, read = connection.flow.b_isn + 1;
    connection.a = restored(lab.ns(From::kA), std::move(connection.a), off);
    if (off == -1) {
      EXPECT_GT(empty_map(lab.pspd(From::kA).pid(), "psp_departed"), 0u) << "it may be forgotten";
    }
    const Octets data = random_octets(500);
    send_all(connection.a.get(), data);
    lab.cable().send(From::kB, clear_packet(connection.flow, From::kB,
                                            {read, next, kAck | kPsh, 512, octets_of("forged")}));
    std::this_thread::sleep_for(450ms);  // retransmissions
    EXPECT_GT(empty_map(lab.pspd(From::kA).pid(), "psp_departed") + (off == -1), 0u);
    std::this_thread::sleep_for(900ms);  // more, and the connection is forgotten
    EXPECT_EQ(pending(connection.a.get()), Octets());
    expect_nothing_in_clear(lab, connection.flow, mark, data);
  }
  EXPECT_GE(lab.drops(From::kA, "POLICY_CLEAR"), 2u);
}

TEST_P(Hostile, ASocketThatIsRestoredOntoAConnectionInClearGoesOn) {
  Lab lab;
  lab.start(From::kA);
  Connection connection = lab.connect(GetParam());
  connection.a = restored(lab.ns(From::kA), std::move(connection.a), 0);
  send_all(connection.a.get(), octets_of("still here"));
  EXPECT_EQ(receive(connection.b.get(), 10), octets_of("still here"));
  send_all(connection.b.get(), octets_of("so am I"));
  EXPECT_EQ(receive(connection.a.get(), 7), octets_of("so am I"));
}

INSTANTIATE_TEST_SUITE_P(Families, Hostile, testing::Values(Kind::kIpv4, Kind::kIpv6), kind_param);

// ClearBeforeTxAssoc: the peer already sends PSP, and somebody on the wire adds clear segments.
class ClearBeforeTxAssoc : public PuppetTest {
 protected:
  static constexpr std::uint32_t kSealed = 10;

  void has_sealed_data(Puppet& puppet) {
    puppet.send_sealed({.seq = puppet.seq(), .ack = puppet.ack(), .payload = Octets(kSealed, 's')});
    ASSERT_EQ(receive(puppet.fd(), kSealed).size(), kSealed);
    ASSERT_TRUE(acknowledged(puppet, 0, kSealed));
  }
  bool acknowledged(const Puppet& puppet, std::size_t mark, std::uint32_t octets) {
    return cable()
        .find(mark,
              [&](const Seen& seen) {
                return seen.from == From::kA && of_flow(seen, puppet.flow()) &&
                       seen.segment->ack == puppet.seq(octets);
              })
        .has_value();
  }
  // window is how far the receive window goes on from rcv_nxt, if all is acknowledged.
  static std::uint32_t window(const Puppet& puppet) {
    int repair = 1;
    tcp_repair_window window{};
    socklen_t length = sizeof window;
    EXPECT_EQ(::setsockopt(puppet.fd(), IPPROTO_TCP, TCP_REPAIR, &repair, sizeof repair), 0);
    EXPECT_EQ(::getsockopt(puppet.fd(), IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, &length), 0);
    repair = -1;  // off, without a window probe
    EXPECT_EQ(::setsockopt(puppet.fd(), IPPROTO_TCP, TCP_REPAIR, &repair, sizeof repair), 0);
    return window.rcv_wnd;
  }
};

TEST_P(ClearBeforeTxAssoc, AFinOutOfOrderRefusesIt) {
  Puppet puppet(*lab_, GetParam(), PSP_STATE_RX);
  has_sealed_data(puppet);
  const std::size_t mark = cable().mark();
  puppet.send_clear({.seq = puppet.seq(100), .ack = puppet.ack(), .flags = kFin | kAck});
  ASSERT_TRUE(acknowledged(puppet, mark, kSealed));
  const auto refused = puppet.tx_assoc();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().sys_errno, EBUSY);
  EXPECT_EQ(puppet.state(), static_cast<unsigned>(PSP_STATE_RX));
}

TEST_P(ClearBeforeTxAssoc, DataThatEndsBeyondTheWindowIsNeverDelivered) {
  Puppet puppet(*lab_, GetParam(), PSP_STATE_RX);
  has_sealed_data(puppet);
  const std::uint32_t edge = kSealed + window(puppet), start = edge - 100;
  ASSERT_GT(start, kSealed);
  const auto rx_drops = [&] { return lab_->association(From::kA, puppet.fd())->rx_drops; };
  const std::uint64_t before = rx_drops();
  puppet.send_clear({.seq = puppet.seq(start), .ack = puppet.ack(), .payload = Octets(1000, 'X')});
  EXPECT_TRUE(eventually([&] { return rx_drops() == before + 1; })) << rx_drops() - before;
  const auto done = puppet.tx_assoc();
  ASSERT_TRUE(done) << done.error().message;
  for (std::uint32_t at = kSealed; at < edge;) {
    const std::uint32_t size = std::min(edge - at, 1200u);
    const Octets good(size, 'g');
    puppet.send_sealed({.seq = puppet.seq(at), .ack = puppet.ack(), .payload = good});
    ASSERT_EQ(receive(puppet.fd(), size), good) << at << " of " << edge;
    at += size;
  }
  EXPECT_EQ(pending(puppet.fd()), Octets());
}

INSTANTIATE_TEST_SUITE_P(Families, ClearBeforeTxAssoc,
                         testing::Values(Kind::kIpv4, Kind::kIpv6, Kind::kIpv4Mapped), kind_param);

}  // namespace
}  // namespace psp::lab
