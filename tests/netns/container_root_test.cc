// SPDX-License-Identifier: Apache-2.0
//
// Root of a container, with a user namespace of its own, against the keys of everybody else that
// uses the same PSP device. It can do to its netdevs and its TAP what it likes; what pspd opens and
// seals there must be its own connections' alone.
#include <arpa/inet.h>
#include <csignal>
#include <cstdlib>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

#include "container.hh"

namespace psp::lab {
namespace {

constexpr Version kVersion = Version::kAesGcm128;
constexpr std::size_t kEthernet = 14;

sockaddr_in ipv4(const char* address, std::uint16_t port) {
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_port = htons(port);
  ::inet_pton(AF_INET, address, &name.sin_addr);
  return name;
}

class ContainerRoot : public testing::Test {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    lab_.emplace();
    lab_->start(From::kA);
    lab_->start(From::kB);
    box_.emplace(*lab_, Container::Link::kVeth, Container::Owner::kItself);
    ASSERT_TRUE(box_->associate());
    tap_ = box_->packet_socket("psp0");
  }
  void TearDown() override {
    tap_.reset();
    box_.reset();
    lab_.reset();
  }

  // from_b sends and gives B's PSP packets of a connection, as somebody on the wire records them.
  std::vector<Seen> from_b(const Connection& connection, const Octets& text) {
    const std::size_t mark = lab_->cable().mark();
    send_all(connection.b.get(), text);
    EXPECT_EQ(receive(connection.a.get(), text.size()), text);
    auto seen = lab_->cable().since(mark);
    std::erase_if(seen, [](const Seen& s) { return s.from != From::kB || !s.psp; });
    return seen;
  }
  // send_to_box sends a recorded PSP packet to the container's address.
  void send_to_box(const Seen& recorded, Kind kind) {
    const bool v4 = kind == Kind::kIpv4;
    const std::size_t headers = (v4 ? 20 : 40) + 8;
    const InNetns inside(lab_->ns(From::kB));
    const UniqueFd fd(::socket(v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_in to4 = ipv4("10.99.0.2", 1000);
    sockaddr_in6 to6{};
    to6.sin6_family = AF_INET6;
    to6.sin6_port = htons(1000);
    ::inet_pton(AF_INET6, "fd99::2", &to6.sin6_addr);
    const auto* to =
        v4 ? reinterpret_cast<const sockaddr*>(&to4) : reinterpret_cast<const sockaddr*>(&to6);
    const std::size_t size = recorded.octets.size() - headers;
    EXPECT_EQ(::sendto(fd.get(), recorded.octets.data() + headers, size, 0, to,
                       v4 ? sizeof to4 : sizeof to6),
              static_cast<ssize_t>(size));
  }
  // ask_for_seal hands a segment to pspd as the tc program at the netdev does: to be sealed with
  // the Tx key of that handle (see frame_tag.h).
  void ask_for_seal(const Octets& packet, std::uint32_t handle) {
    constexpr std::uint8_t kSeal = 0x02;
    Octets ethernet(kEthernet);
    ethernet[6] = kSeal;
    for (unsigned i = 0; i < 4; i++)
      ethernet[8 + i] = static_cast<std::uint8_t>(handle >> 8 * (3 - i));
    send_frame(tap_, ethernet, packet);
  }
  static void send_frame(const UniqueFd& socket, Octets frame, const Octets& packet) {
    const bool v4 = packet.at(0) >> 4 == 4;
    frame[12] = v4 ? 0x08 : 0x86;
    frame[13] = v4 ? 0x00 : 0xdd;
    frame.insert(frame.end(), packet.begin(), packet.end());
    EXPECT_EQ(::send(socket.get(), frame.data(), frame.size(), 0),
              static_cast<ssize_t>(frame.size()));
  }
  // depart ends a connection: the host is left with a TIME_WAIT.
  void depart(Connection& connection) {
    connection.a.reset();
    EXPECT_TRUE(at_end(connection.b.get()));
    connection.b.reset();
    EXPECT_TRUE(eventually([&] { return lab_->client(From::kA).associations()->empty(); }));
  }
  // add_macvlan gives the container mv0, 10.77.0.99, on the host's eth0.
  void add_macvlan() {
    lab_->ns(From::kA).sh(fmt::format(
        "ip link add mv0 link eth0 type macvlan mode bridge && ip link set mv0 netns {}",
        box_->pid()));
    box_->ns().sh("ip addr add 10.77.0.99/24 dev mv0 && ip link set mv0 up");
  }
  // on_tap are the packets that were on the container's TAP since it was asked last.
  std::vector<Seen> on_tap() {
    std::vector<Seen> all;
    Octets frame(70'000);
    for (ssize_t n; (n = ::recv(tap_.get(), frame.data(), frame.size(), 0)) > 0;)
      if (static_cast<std::size_t>(n) > kEthernet)
        all.push_back(see_packet(
            From::kA, {frame.data() + kEthernet, static_cast<std::size_t>(n) - kEthernet}));
    return all;
  }

  std::optional<Lab> lab_;
  std::optional<Container> box_;
  UniqueFd tap_;
};

// refused_to_detach asks for a program at each side of a netdev's tcx to go: how often it may not.
// 2 where there is no tcx.
int refused_to_detach(unsigned ifindex) {
  constexpr std::uint32_t kTcxIngress = 46, kTcxEgress = 47;
  int refused = 0;
  for (const std::uint32_t side : {kTcxIngress, kTcxEgress}) {
    bpf_attr asked{};
    asked.target_fd = ifindex;  // as target_ifindex: of a netdev
    asked.attach_type = side;
    refused += ::syscall(SYS_bpf, BPF_PROG_DETACH, &asked, sizeof asked) != 0 &&
               (errno == EPERM || errno == EINVAL);
  }
  return refused;
}

// What is at his netdev and his TAP it may take away, and does; not the block.
TEST_F(ContainerRoot, CannotHaveItsSecuredSocketsGoOnInClear) {
  for (const Kind kind : {Kind::kIpv4, Kind::kIpv6}) {
    SCOPED_TRACE(kind_name(kind));
    Connection connection = box_->connect(kind);
    box_->secure(connection);
    const std::size_t mark = lab_->cable().mark();
    const unsigned ifindex = box_->ifindex();
    EXPECT_EQ(box_->as_root([ifindex] { return refused_to_detach(ifindex); }), 2);
    EXPECT_EQ(box_->as_root([] {
      return ::system(
                 "tc qdisc del dev eth0 clsact && ip link set psp0 down && "
                 "tc qdisc del dev psp0 clsact && ip link del psp0") == 0
                 ? 0
                 : 1;
    }),
              0)
        << "it is root of both netdevs";
    (void)::send(connection.a.get(), "secret", 6, MSG_NOSIGNAL);
    std::this_thread::sleep_for(1s);  // in which TCP would have sent it again
    expect_nothing_in_clear(*lab_, connection.flow, mark, octets_of("secret"));
    // With its TAP the association of the container has ended.
    ASSERT_TRUE(eventually([&] { return box_->associate().has_value(); }));
  }
}

TEST_F(ContainerRoot, ReadsNothingOfWhatIsSealedForTheHost) {
  for (const Kind kind : {Kind::kIpv4, Kind::kIpv6}) {
    SCOPED_TRACE(kind_name(kind));
    Connection hosts = lab_->connect(kind);
    secure(*lab_, hosts);
    Connection own = box_->connect(kind);
    box_->secure(own);
    const Octets secret = random_octets(500);
    const auto recorded = from_b(hosts, secret);
    ASSERT_FALSE(recorded.empty());
    on_tap();
    const auto failed = lab_->drops(From::kA, "UNKNOWN_KEY");
    for (const Seen& packet : recorded) send_to_box(packet, kind);
    EXPECT_TRUE(eventually(
        [&] { return lab_->drops(From::kA, "UNKNOWN_KEY") >= failed + recorded.size(); }));
    const auto seen = on_tap();
    EXPECT_GE(seen.size(), recorded.size()) << "sealed, on their way to pspd";
    for (const Seen& packet : seen) EXPECT_FALSE(holds_part(packet.octets, secret));
  }
}

// say_gone tells all who listen what the kernel says when a TCP socket has gone, as root of a
// namespace may in it.
bool say_gone(std::uint64_t cookie) {
  const UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  sockaddr_nl to{};
  to.nl_family = AF_NETLINK;
  to.nl_groups = 1u << (SKNLGRP_INET_TCP_DESTROY - 1);
  struct {
    nlmsghdr header;
    inet_diag_msg socket;
  } message{};
  message.header.nlmsg_len = sizeof message;
  message.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  message.socket.idiag_family = AF_INET;
  message.socket.id.idiag_cookie[0] = static_cast<std::uint32_t>(cookie);
  message.socket.id.idiag_cookie[1] = static_cast<std::uint32_t>(cookie >> 32);
  return ::sendto(fd.get(), &message, sizeof message, 0, reinterpret_cast<const sockaddr*>(&to),
                  sizeof to) == sizeof message;
}

TEST_F(ContainerRoot, IsNotBelievedThatASocketOfTheHostHasGone) {
  using namespace std::chrono_literals;
  const Connection hosts = lab_->connect(Kind::kIpv4);
  Client client = lab_->client(From::kA);
  const auto rx = client.rx_assoc(hosts.a.get(), kVersion);
  ASSERT_TRUE(rx);
  std::uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  ASSERT_EQ(::getsockopt(hosts.a.get(), SOL_SOCKET, SO_COOKIE, &cookie, &size), 0);
  {
    const InNetns inside(box_->ns());
    ASSERT_TRUE(say_gone(cookie));
  }
  std::this_thread::sleep_for(300ms);
  EXPECT_TRUE(client.tx_assoc(hosts.a.get(), kVersion, rx->rx)) << "its Rx key has been taken away";
}

TEST_F(ContainerRoot, GetsNoSealUnderAKeyOfTheHost) {
  std::vector<Connection> all;  // they keep their slots
  for (const Kind kind : {Kind::kIpv4, Kind::kIpv6}) {
    SCOPED_TRACE(kind_name(kind));
    const Connection& hosts = all.emplace_back(lab_->connect(kind));
    const Secured keys = secure(*lab_, hosts);
    const Flow flow = hosts.flow;
    const Secured own_keys = box_->secure(all.emplace_back(box_->connect(kind)));
    const Octets forged =
        clear_packet(flow, From::kA, {.seq = flow.a_isn + 1, .payload = random_octets(100)});
    on_tap();
    const auto refused = lab_->drops(From::kA, "TX_NO_ASSOC");
    // The first handles of a table, of which the container has one or two.
    constexpr std::uint32_t kFirst = 1u << 24, kHandles = 8;
    for (std::uint32_t i = 0; i < kHandles; i++) ask_for_seal(forged, kFirst | i);
    EXPECT_TRUE(
        eventually([&] { return lab_->drops(From::kA, "TX_NO_ASSOC") >= refused + kHandles - 2; }));
    bool own_seal = false;
    for (const Seen& packet : on_tap()) {
      EXPECT_FALSE(open(packet, kVersion, keys.b_rx)) << "sealed under the host's key";
      own_seal |= open(packet, kVersion, own_keys.b_rx).has_value();
    }
    EXPECT_TRUE(own_seal) << "pspd was asked and answered";
  }
}

// By a macvlan, packets come to the host's netdev with the socket that sent them. Should the
// programs at the container's netdev be off, the socket sends nothing; did it, the programs at the
// host's netdev would know that its association is not of their namespace.
TEST_F(ContainerRoot, GetsNoSealUnderAKeyOfTheHostByAMacvlan) {
  Connection hosts = lab_->connect(Kind::kIpv4);
  const Secured keys = secure(*lab_, hosts);
  add_macvlan();
  Client client = lab_->client(From::kA);
  ASSERT_TRUE(client.dev_assoc(client.devices().value().at(0).id, ifindex_of(box_->ns(), "mv0"),
                               box_->nsid()));
  Connection own = connect(box_->ns(), lab_->ns(From::kB), Lab::address(From::kB, Kind::kIpv4));
  box_->secure(own);
  const Octets first = random_octets(100), second = random_octets(100);
  send_all(own.a.get(), first);
  EXPECT_EQ(receive(own.b.get(), first.size()), first);
  const auto refused = lab_->drops(From::kA, "POLICY_ROUTE");
  const std::size_t mark = lab_->cable().mark();
  ::kill(lab_->pspd(From::kA).pid(), SIGSTOP);  // it would put them back
  ASSERT_TRUE(take_program_off(box_->ns(), "mv0", true));
  send_all(own.a.get(), second);
  ::kill(lab_->pspd(From::kA).pid(), SIGCONT);
  EXPECT_TRUE(eventually([&] { return lab_->drops(From::kA, "POLICY_ROUTE") > refused; }));
  EXPECT_EQ(receive(own.b.get(), second.size(), 10s), second) << "once they are back";
  const auto by_box = [](const Seen& seen) { return seen.octets[15] == 99; };
  for (const Seen& packet : lab_->cable().since(mark))
    EXPECT_FALSE(by_box(packet) && open(packet, kVersion, keys.b_rx)) << "sealed under his key";
}

// What a connection sends when its socket has gone is found by its addresses, which anybody behind
// a macvlan can write into a packet.
TEST_F(ContainerRoot, IsNotTakenForADepartedConnectionOfTheHost) {
  Connection hosts = lab_->connect(Kind::kIpv4);
  const Secured keys = secure(*lab_, hosts);
  depart(hosts);
  add_macvlan();
  const UniqueFd wire = box_->packet_socket("mv0");
  const std::size_t mark = lab_->cable().mark();
  constexpr std::uint32_t kForged = 0x1234'5678;
  send_frame(wire, Octets(kEthernet, 0x02),  // to and from anywhere
             clear_packet(hosts.flow, From::kA, {.seq = kForged, .ack = 1}));
  const auto forged = [&](const std::optional<Segment>& s) { return s && s->seq == kForged; };
  EXPECT_TRUE(lab_->cable().find(mark, [&](const Seen& seen) {
    return of_flow(seen, hosts.flow) && forged(seen.segment);
  })) << "it goes as it is";
  for (const Seen& packet : lab_->cable().since(mark))
    EXPECT_FALSE(forged(open(packet, kVersion, keys.b_rx))) << "sealed under the host's key";
}

TEST_F(ContainerRoot, DoesNotSupersedeADepartedConnectionOfTheHost) {
  Connection hosts = lab_->connect(Kind::kIpv4);
  const Secured keys = secure(*lab_, hosts);
  depart(hosts);
  add_macvlan();
  box_->ns().sh("ip addr add 10.77.0.1/24 dev mv0");
  UniqueFd same;  // the same ports, from the same address
  {
    const InNetns inside(box_->ns());
    same.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  }
  sockaddr_in from = ipv4("10.77.0.1", hosts.flow.a_port),
              to = ipv4("10.77.0.2", hosts.flow.b_port);
  const int on = 1;
  ::setsockopt(same.get(), SOL_SOCKET, SO_BINDTODEVICE, "mv0", 4);
  ::setsockopt(same.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  ASSERT_EQ(::bind(same.get(), reinterpret_cast<sockaddr*>(&from), sizeof from), 0);
  const std::size_t mark = lab_->cable().mark();
  EXPECT_NE(::connect(same.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  EXPECT_TRUE(lab_->cable().find(mark, [&](const Seen& seen) {
    return seen.from == From::kA && of_flow(seen, hosts.flow) && (seen.segment->flags & kSyn) != 0;
  }));
  // B did not get the last ACK and sends its FIN again: it is opened, and answered sealed.
  lab_->cable().send(
      From::kB,
      seal(clear_packet(
               hosts.flow, From::kB,
               {.seq = hosts.flow.b_isn + 1, .ack = hosts.flow.a_isn + 2, .flags = kFin | kAck}),
           with(kVersion, keys.a_rx)));
  EXPECT_TRUE(lab_->cable().find(mark, [&](const Seen& seen) {
    return seen.from == From::kA && open(seen, kVersion, keys.b_rx);
  }));
}

}  // namespace
}  // namespace psp::lab
