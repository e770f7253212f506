// SPDX-License-Identifier: Apache-2.0
//
// Client, and the C interface over it, against a Server behind a real SOCK_SEQPACKET listener with
// real descriptors passed; then the ways a daemon can fail a client; then what this kernel has.
//
// Threading: Daemon serves in one thread of its own; the test looks at what it noted only after the
// answer that followed, or under the mutex.
#include <arpa/inet.h>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <memory>
#include <mutex>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <thread>

#include <psp/netlink/client.hh>
#include <psp/netlink/credentials.hh>
#include <psp/netlink/trusted_peer.h>
#include <psp/psp.h>

#include "test_support.hh"
#include "transport.hh"

extern "C" int psp_c_header_test(psp_error* err);

namespace psp::netlink {
namespace {

using testing::FakeDriver;
using ::testing::HasSubstr;
using testing::ModelInspector;

std::string unique_name() {
  static std::atomic<int> next{0};
  return "@softpsp-test-" + std::to_string(::getpid()) + "-" + std::to_string(next++);
}

UniqueFd listen_at(const std::string& name) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, name.data(), name.size());
  address.sun_path[0] = '\0';
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::listen(fd.get(), 8) != 0)
    return UniqueFd();
  return fd;
}

// CookieSockets tells real sockets apart, and has them routed to the device.
class CookieSockets final : public device::SocketOps {
 public:
  std::vector<std::uint64_t> rx_cookies, tx_cookies;
  std::uint32_t route_ifindex = 7;

  device::Result<device::SocketInfo> examine(int fd) override {
    int protocol = 0;
    socklen_t size = sizeof protocol;
    if (::getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) != 0)
      return device::fail(errno);
    if (protocol != IPPROTO_TCP)
      return device::fail(EOPNOTSUPP, "Unsupported socket family and type", device::Field::kSockFd);
    device::SocketInfo info;
    size = sizeof info.cookie;
    ::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &info.cookie, &size);
    info.route_ifindex = route_ifindex;
    info.established = true;
    return info;
  }
  device::Result<void> rx_attach(int, const device::Association& association) override {
    rx_cookies.push_back(association.cookie);
    return {};
  }
  device::Result<void> tx_attach(int, const device::Association& association) override {
    tx_cookies.push_back(association.cookie);
    return {};
  }
};

// Daemon is a pspd without packets.
class Daemon {
 public:
  enum class Manner { kAnswer, kDieAtRequest, kHang, kGarbage };

  explicit Daemon(Manner manner = Manner::kAnswer, std::optional<bool> net_admin = true)
      : manner_(manner),
        net_admin_(net_admin),
        listener_(listen_at(name_)),
        stop_(::eventfd(0, EFD_CLOEXEC)) {
    core.set_listener(&server);
    server.set_multicast([this](std::uint32_t group, std::uint64_t, const Datagram& datagram) {
      for (auto& peer : peers_)
        if ((peer->caller.groups & group) != 0)
          ::send(peer->fd.get(), datagram.data(), datagram.size(), MSG_NOSIGNAL);
    });
    (void)core.add_device({0, 7}, "eth0", VersionSet::all(), driver);
    inspector.info.version = "0.1.0";
    thread_ = std::thread([this] { run(); });
  }
  ~Daemon() {
    const std::uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof one);
    thread_.join();
  }
  const std::string& name() const { return name_; }
  // set_netns moves all clients into that namespace.
  void set_netns(std::uint64_t netns) {
    for (auto& peer : peers_) peer->caller.netns = netns;
  }
  // with runs `act` while no request is being served.
  template <typename Act>
  void with(Act&& act) {
    const std::lock_guard lock(mutex_);
    act();
  }

  CookieSockets sockets;
  FakeDriver driver;
  ModelInspector inspector;
  std::function<void()> between_parts;  // of the next dump, once
  testing::FakeNetdevs netdevs;
  device::Core core{sockets, &netdevs};
  Server server{core, &inspector};

 private:
  struct Peer {
    UniqueFd fd;
    Caller caller;
  };

  void run() {
    for (;;) {
      std::vector<pollfd> fds = {{stop_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
      for (const auto& peer : peers_) fds.push_back({peer->fd.get(), POLLIN, 0});
      ::poll(fds.data(), fds.size(), -1);
      if (fds[0].revents != 0) return;
      const std::lock_guard lock(mutex_);
      for (std::size_t i = 2; i < fds.size(); ++i)
        if (fds[i].revents != 0 && !serve(*peers_[i - 2])) peers_[i - 2]->fd = UniqueFd();
      std::erase_if(peers_, [](const auto& peer) { return !peer->fd; });
      if (fds[1].revents != 0) accept_one();
    }
  }
  void accept_one() {
    auto peer = std::make_unique<Peer>();
    peer->caller.paced = true;
    peer->fd = UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    peer->caller.net_admin = net_admin_ ? *net_admin_ : peer_has_net_admin(peer->fd.get());
    peers_.push_back(std::move(peer));
  }
  bool serve(Peer& peer) {
    std::vector<std::uint8_t> buffer(65536);
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    iovec data = {buffer.data(), buffer.size()};
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t got = ::recvmsg(peer.fd.get(), &message, MSG_CMSG_CLOEXEC);
    if (got <= 0) return false;
    UniqueFd attached;
    if (const cmsghdr* rights = CMSG_FIRSTHDR(&message)) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(rights), sizeof fd);
      attached = UniqueFd(fd);
    }
    const auto request = std::span(buffer).first(static_cast<std::size_t>(got));
    // Resolving names works, so that connect() succeeds; what comes then is failed.
    const bool resolving =
        reinterpret_cast<const nlmsghdr*>(buffer.data())->nlmsg_type == GENL_ID_CTRL;
    if (!resolving && manner_ == Manner::kDieAtRequest) return false;
    if (!resolving && manner_ == Manner::kHang) return true;
    std::vector<Datagram> out;
    server.handle(peer.caller, request, attached.get(), out);
    while (peer.caller.dump) {
      if (between_parts) std::exchange(between_parts, {})();
      server.resume(peer.caller, out);
    }
    if (!resolving && manner_ == Manner::kGarbage)
      for (Datagram& answer : out) std::fill(answer.begin(), answer.begin() + 4, 0xff);
    for (const Datagram& answer : out)
      ::send(peer.fd.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
    if (!resolving && manner_ == Manner::kGarbage) return false;
    return true;
  }

  const std::string name_ = unique_name();
  Manner manner_;
  std::optional<bool> net_admin_;
  UniqueFd listener_, stop_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::mutex mutex_;
  std::thread thread_;
};

// TcpPair is a connection over loopback.
struct TcpPair {
  UniqueFd near, far;
  TcpPair() {
    UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    if (::bind(listener.get(), generic, size) != 0 || ::listen(listener.get(), 1) != 0) return;
    ::getsockname(listener.get(), generic, &size);
    near = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(near.get(), generic, size) != 0) return;
    far = UniqueFd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  }
};

std::uint64_t cookie_of(int fd) {
  std::uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  ::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size);
  return cookie;
}

Client connect_to(const Daemon& daemon) {
  auto client = Client::connect_daemon(daemon.name());
  EXPECT_TRUE(client) << client.error().message;
  return std::move(*client);
}

TEST(Client, SecuresTheVerySocketItWasGiven) {
  Daemon daemon;
  Client client = connect_to(daemon);
  EXPECT_EQ(client.provider(), Client::Provider::kDaemon);
  TcpPair tcp;
  const auto rx = client.rx_assoc(tcp.near.get(), Version::kAesGcm256);
  ASSERT_TRUE(rx) << rx.error().message;
  EXPECT_EQ(rx->dev_id, 1u);
  EXPECT_EQ(rx->rx.spi.value, 0x101u);
  EXPECT_EQ(rx->rx.key.size(), 32u);
  EXPECT_EQ(rx->rx.key.data()[31], 31);

  KeyInfo tx{.spi = {0x80000077}, .key = {}};
  tx.key.assign(std::vector<std::uint8_t>(32, 0x5a));
  const auto done = client.tx_assoc(tcp.near.get(), Version::kAesGcm256, tx);
  ASSERT_TRUE(done) << done.error().message;
  daemon.with([&] {
    EXPECT_THAT(daemon.sockets.rx_cookies, ::testing::ElementsAre(cookie_of(tcp.near.get())));
    EXPECT_EQ(daemon.sockets.tx_cookies, daemon.sockets.rx_cookies);
    EXPECT_EQ(daemon.driver.tx_spi, 0x80000077u);
    EXPECT_EQ(daemon.driver.tx_key, std::vector<std::uint8_t>(32, 0x5a));
  });
}

TEST(Client, AnswersOfEveryRequestAreRead) {
  Daemon daemon;
  daemon.with([&] {
    daemon.driver.stats = {.rx_packets = 1,
                           .rx_bytes = 0x1'0000'0002,
                           .rx_auth_fail = 3,
                           .rx_error = 4,
                           .rx_bad = 5,
                           .tx_packets = 6,
                           .tx_bytes = 7,
                           .tx_error = 8};
  });
  Client client = connect_to(daemon);
  ASSERT_TRUE(client.set_versions(1, {0x5}));
  const auto devices = client.devices();
  ASSERT_TRUE(devices) << devices.error().message;
  ASSERT_EQ(devices->size(), 1u);
  EXPECT_EQ(devices->front().id, 1u);
  EXPECT_EQ(devices->front().ifindex, 7u);
  EXPECT_EQ(devices->front().versions_cap.bits, 0xfu);
  EXPECT_EQ(devices->front().versions_ena.bits, 0x5u);
  const auto device = client.device(1);
  ASSERT_TRUE(device);
  EXPECT_EQ(device->versions_ena.bits, 0x5u);
  ASSERT_TRUE(client.key_rotate(1));
  const auto stats = client.stats(1);
  ASSERT_TRUE(stats);
  EXPECT_EQ(stats->key_rotations, 1u);
  EXPECT_EQ(stats->rx_packets, 1u);
  EXPECT_EQ(stats->rx_bytes, 0x1'0000'0002u);
  EXPECT_EQ(stats->rx_auth_fail, 3u);
  EXPECT_EQ(stats->rx_error, 4u);
  EXPECT_EQ(stats->rx_bad, 5u);
  EXPECT_EQ(stats->tx_packets, 6u);
  EXPECT_EQ(stats->tx_bytes, 7u);
  EXPECT_EQ(stats->tx_error, 8u);
  const auto all = client.stats();
  ASSERT_TRUE(all);
  ASSERT_EQ(all->size(), 1u);
  EXPECT_EQ(all->front().tx_error, 8u);
}

TEST(Client, AssociatesNetdevsAndReadsWhoUsesADevice) {
  Daemon daemon;
  Client client = connect_to(daemon);
  ASSERT_TRUE(client.dev_assoc(1, 50, 3));
  ASSERT_TRUE(client.dev_assoc(1, 51, {}));
  auto device = client.device(1);
  ASSERT_TRUE(device);
  EXPECT_FALSE(device->by_association);
  ASSERT_EQ(device->associated.size(), 2u);
  EXPECT_EQ(device->associated[0].ifindex, 50u);
  EXPECT_EQ(device->associated[0].nsid, 3);
  EXPECT_EQ(device->associated[1].nsid, -1);
  const auto refused = client.dev_assoc(1, 1000, 3);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().bad_attribute, ".ifindex");
  ASSERT_TRUE(client.dev_disassoc(1, 50, 3));
  daemon.with([&] { daemon.set_netns(3); });
  EXPECT_EQ(client.device(1).error().sys_errno, ENOENT);
  daemon.with([&] { daemon.core.dev_assoc(0, 1, 50, 3).value(); });
  device = client.device(1);
  ASSERT_TRUE(device);
  EXPECT_TRUE(device->by_association);
  EXPECT_EQ(device->ifindex, 0u);
  EXPECT_EQ(device->associated.size(), 1u);
}

TEST(Client, AsksAgainIfDevicesCameWhileItRead) {
  Daemon daemon;
  daemon.with([&] {
    for (std::uint32_t i = 0; i < 1000; ++i)
      daemon.core.add_device({0, 100 + i}, "eth", {0x1}, daemon.driver).value();
    daemon.between_parts = [&] { daemon.core.remove_device(1); };
  });
  Client client = connect_to(daemon);
  const auto devices = client.devices();
  ASSERT_TRUE(devices) << devices.error().message;
  EXPECT_EQ(devices->size(), 1000u) << "and not the one that went";
  EXPECT_EQ(devices->front().id, 2u);
}

AssocInfo sample_association(std::uint64_t cookie) {
  AssocInfo info;
  info.cookie = cookie;
  info.dev_id = 1;
  info.ifname = "eth0";
  info.family = 6;
  info.local_address = "2001:db8::1";
  info.peer_address = "2001:db8::2";
  info.local_port = 65535;
  info.peer_port = 7000;
  info.state = 3;
  info.tcp_state = "established";
  info.version = Version::kAesGmac256;
  info.generation = 127;
  info.stale = true;
  info.rx_spi = {0x80000001};
  info.tx_spi = Spi{2};
  info.rx_packets = 1;
  info.rx_bytes = 0x100000000;
  info.tx_packets = 3;
  info.tx_bytes = 4;
  info.rx_drops = 5;
  return info;
}

TEST(Client, SoftpspTellsOfAssociationsAndTheDaemon) {
  Daemon daemon;
  daemon.with([&] {
    for (std::uint64_t cookie = 0; cookie < 1000; ++cookie)
      daemon.inspector.all.push_back(sample_association(cookie + 0xffffff00ull));
    daemon.inspector.all.back().tx_spi.reset();
    daemon.inspector.info = {.version = "0.1.0",
                             .crypto_backend = "ipsec-mb",
                             .pid = 77,
                             .instance = 0x123456789abcdef,
                             .devices = {{.id = 1,
                                          .ifname = "eth0",
                                          .tap = "psp0",
                                          .mtu = 1500,
                                          .generation = 3,
                                          .spi_remaining = 0x7fffffff,
                                          .drops = {{"AUTH_FAIL", 3}, {"BAD_SPI", 1ull << 40}},
                                          .repairs = 5,
                                          .trouble = "psp0 was set down"},
                                         {.id = 2, .ifname = "eth1", .tap = "psp1", .drops = {}}}};
  });
  Client client = connect_to(daemon);
  const auto all = client.associations();
  ASSERT_TRUE(all) << all.error().message;
  ASSERT_EQ(all->size(), 1000u);
  const AssocInfo expected = sample_association(0xffffff00ull + 500);
  const AssocInfo& got = (*all)[500];
  EXPECT_EQ(got.cookie, expected.cookie);
  EXPECT_EQ(got.ifname, "eth0");
  EXPECT_EQ(got.family, 6u);
  EXPECT_EQ(got.local_address, expected.local_address);
  EXPECT_EQ(got.peer_address, expected.peer_address);
  EXPECT_EQ(got.local_port, 65535);
  EXPECT_EQ(got.peer_port, 7000);
  EXPECT_EQ(got.state, 3u);
  EXPECT_EQ(got.tcp_state, "established");
  EXPECT_EQ(got.version, Version::kAesGmac256);
  EXPECT_EQ(got.generation, 127u);
  EXPECT_TRUE(got.stale);
  EXPECT_EQ(got.rx_spi, expected.rx_spi);
  EXPECT_EQ(got.tx_spi, expected.tx_spi);
  EXPECT_EQ(got.rx_bytes, 0x100000000u);
  EXPECT_EQ(got.tx_packets, 3u);
  EXPECT_EQ(got.tx_bytes, 4u);
  EXPECT_EQ(got.rx_drops, 5u);
  EXPECT_FALSE(all->back().tx_spi);

  const auto info = client.daemon_info();
  ASSERT_TRUE(info) << info.error().message;
  EXPECT_EQ(info->version, "0.1.0");
  EXPECT_EQ(info->crypto_backend, "ipsec-mb");
  EXPECT_EQ(info->pid, 77u);
  EXPECT_EQ(info->instance, 0x123456789abcdefu);
  ASSERT_EQ(info->devices.size(), 2u);
  EXPECT_EQ(info->devices[0].tap, "psp0");
  EXPECT_EQ(info->devices[0].mtu, 1500u);
  EXPECT_EQ(info->devices[0].generation, 3u);
  EXPECT_EQ(info->devices[0].spi_remaining, 0x7fffffffu);
  EXPECT_EQ(info->devices[0].drops, daemon.inspector.info.devices[0].drops);
  EXPECT_EQ(info->devices[0].repairs, 5u);
  EXPECT_EQ(info->devices[0].trouble, "psp0 was set down");
  EXPECT_EQ(info->devices[1].ifname, "eth1");
  EXPECT_EQ(info->devices[1].trouble, "");
}

TEST(Client, NotificationsComeToThoseWhoSubscribed) {
  using std::chrono::milliseconds;
  Daemon daemon;
  Client actor = connect_to(daemon), mgmt = connect_to(daemon), use = connect_to(daemon);
  EXPECT_EQ(mgmt.notification_fd(), -1);
  EXPECT_FALSE(mgmt.next_notification(milliseconds(0))) << "not subscribed";
  ASSERT_TRUE(mgmt.subscribe(true, false));
  ASSERT_TRUE(use.subscribe(false, true));
  EXPECT_GE(mgmt.notification_fd(), 0);
  ASSERT_TRUE(actor.set_versions(1, {0x3}));
  ASSERT_TRUE(actor.key_rotate(1));
  daemon.with([&] { daemon.core.remove_device(1); });

  auto next = mgmt.next_notification(milliseconds(2000));
  ASSERT_TRUE(next && *next);
  EXPECT_EQ((*next)->kind, Notification::Kind::kDevChange);
  EXPECT_EQ((*next)->device.versions_ena.bits, 0x3u);
  next = mgmt.next_notification(milliseconds(2000));
  ASSERT_TRUE(next && *next);
  EXPECT_EQ((*next)->kind, Notification::Kind::kDevDel);
  EXPECT_EQ((*next)->device.ifindex, 7u);
  next = mgmt.next_notification(milliseconds(0));
  EXPECT_TRUE(next && !*next) << "no key rotation in mgmt";

  next = use.next_notification(milliseconds(2000));
  ASSERT_TRUE(next && *next);
  EXPECT_EQ((*next)->kind, Notification::Kind::kKeyRotate);
  EXPECT_EQ((*next)->device.id, 1u);
  next = use.next_notification(milliseconds(0));
  EXPECT_TRUE(next && !*next);
}

TEST(Client, SaysWhyASocketHasNoDevice) {
  Daemon daemon;
  Client client = connect_to(daemon);
  daemon.with([&] { daemon.sockets.route_ifindex = 1; });
  const TcpPair tcp;
  const auto rx = client.rx_assoc(tcp.near.get(), Version::kAesGcm128);
  ASSERT_FALSE(rx);
  EXPECT_EQ(rx.error().missing_attribute, ".dev-id");
  EXPECT_EQ(rx.error().message,
            "rx-assoc: the connection's route leads by a netdev without PSP device, or stays on "
            "this host (lo) (Invalid argument)");
  const UniqueFd mptcp(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_MPTCP));
  if (!mptcp) GTEST_SKIP() << "this kernel has no MPTCP";
  const auto refused = client.rx_assoc(mptcp.get(), Version::kAesGcm128);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().sys_errno, EOPNOTSUPP);
  EXPECT_NE(refused.error().text.find("an MPTCP socket, and PSP is for plain TCP"),
            std::string::npos)
      << refused.error().text;
}

TEST(Client, SaysWhatWasRefusedInTheServersWords) {
  Daemon daemon;
  Client client = connect_to(daemon);
  TcpPair tcp;
  auto rx = client.rx_assoc(tcp.near.get(), Version::kAesGcm128, 2);
  ASSERT_FALSE(rx);
  EXPECT_EQ(rx.error().sys_errno, EINVAL);
  EXPECT_EQ(rx.error().text, "Device id vs socket mismatch");
  EXPECT_EQ(rx.error().bad_attribute, ".dev-id");
  EXPECT_EQ(rx.error().message,
            "rx-assoc: Device id vs socket mismatch, attribute .dev-id (Invalid argument)");

  KeyInfo tx{.spi = {0}, .key = {}};
  tx.key.assign(std::vector<std::uint8_t>(16, 1));
  auto done = client.tx_assoc(tcp.near.get(), Version::kAesGcm128, tx);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().bad_attribute, ".tx-key.key");
  EXPECT_EQ(done.error().text, "invalid SPI: lower 31b must be non-zero");
  tx.spi = {5};
  done = client.tx_assoc(tcp.near.get(), Version::kAesGcm128, tx);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().message, "tx-assoc: Socket has no Rx key (Invalid argument)");

  const auto device = client.device(9);
  ASSERT_FALSE(device);
  EXPECT_EQ(device.error().message, "dev-get: No such device");
}

TEST(Client, DescriptorsThatAreNoSocketsAreTheServersToJudge) {
  Daemon daemon;
  Client client = connect_to(daemon);
  UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  UniqueFd udp(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  auto rx = client.rx_assoc(event.get(), Version::kAesGcm128);
  ASSERT_FALSE(rx);
  EXPECT_EQ(rx.error().sys_errno, ENOTSOCK);
  rx = client.rx_assoc(udp.get(), Version::kAesGcm128);
  ASSERT_FALSE(rx);
  EXPECT_EQ(rx.error().sys_errno, EOPNOTSUPP);
  EXPECT_EQ(rx.error().bad_attribute, ".sock-fd");
  for (const int fd : {-1, 12345}) {
    rx = client.rx_assoc(fd, Version::kAesGcm128);
    ASSERT_FALSE(rx);
    EXPECT_EQ(rx.error().sys_errno, EBADF) << fd;
  }
  EXPECT_TRUE(client.devices()) << "the connection goes on";
}

TEST(Client, AdministrationNeedsTheCapability) {
  Daemon daemon(Daemon::Manner::kAnswer, false);
  Client client = connect_to(daemon);
  for (const auto& done : {client.key_rotate(1), client.set_versions(1, {1})}) {
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().sys_errno, EPERM);
  }
  EXPECT_EQ(client.key_rotate(1).error().message, "key-rotate: Operation not permitted");
  EXPECT_TRUE(client.devices());
}

TEST(Client, ADaemonThatDiesInMidCallIsAClearError) {
  Daemon daemon(Daemon::Manner::kDieAtRequest);
  Client client = connect_to(daemon);
  const auto devices = client.devices();
  ASSERT_FALSE(devices);
  EXPECT_EQ(devices.error().sys_errno, ECONNRESET);
  EXPECT_EQ(devices.error().message, "dev-get: pspd closed the connection before it answered");
  const auto again = client.devices();
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().sys_errno, ECONNRESET);
}

TEST(Client, AnswersThatAreNoNetlinkAreSkipped) {
  Daemon daemon(Daemon::Manner::kGarbage);
  Client client = connect_to(daemon);
  const auto device = client.device(1);
  ASSERT_FALSE(device);
  EXPECT_EQ(device.error().sys_errno, ECONNRESET);
}

TEST(Client, AHungDaemonIsAClearError) {
  Daemon daemon(Daemon::Manner::kHang);
  Client client = connect_to(daemon);
  const auto devices = client.devices();
  ASSERT_FALSE(devices);
  EXPECT_EQ(devices.error().sys_errno, ETIMEDOUT);
  EXPECT_EQ(devices.error().message, "dev-get: pspd does not answer (waited 5 s)");
}

TEST(Client, ADaemonOfAnotherUserIsNotTrusted) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to run a daemon as another user";
  const std::string name = unique_name();
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (::setuid(65534) != 0) ::_exit(1);
    const UniqueFd listener = listen_at(name);
    (void)!::write(ready[1], listener ? "y" : "n", 1);
    ::pause();
    ::_exit(0);
  }
  char up = 0;
  ASSERT_EQ(::read(ready[0], &up, 1), 1);
  EXPECT_EQ(up, 'y');
  const auto client = Client::connect_daemon(name);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().sys_errno, EPERM);
  EXPECT_THAT(client.error().message, HasSubstr("runs as user 65534"));
}

TEST(Transport, TrustsRootAndTheCallerOnly) {
  constexpr uid_t kNone = static_cast<uid_t>(-1);  // every user is known
  EXPECT_TRUE(psp_uid_trusted(0, 1000, kNone));
  EXPECT_TRUE(psp_uid_trusted(1000, 1000, kNone));
  EXPECT_TRUE(psp_uid_trusted(65534, 65534, kNone));
  EXPECT_FALSE(psp_uid_trusted(1000, 0, kNone));
  EXPECT_FALSE(psp_uid_trusted(65534, 1000, kNone));
  EXPECT_FALSE(psp_uid_trusted(65534, 65534, 65534)) << "it may be anybody";
  EXPECT_FALSE(psp_uid_trusted(0, 1000, 0)) << "as sysctl kernel.overflowuid=0 has it";
  EXPECT_FALSE(psp_uid_trusted(kNone, 0, kNone)) << "not known";
}

// as runs `what` in a process of user `uid`, if wanted in a user namespace that knows no user, and
// is its result; 99: there are no such namespaces here.
int as(uid_t uid, bool unknown, const std::function<int()>& what) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setresuid(uid, uid, uid) != 0) ::_exit(98);
    if (unknown && ::unshare(CLONE_NEWUSER) != 0) ::_exit(99);
    ::_exit(what());
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Client, WhereUsersAreNotKnownNobodyIsTakenForTheCaller) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to run a daemon as another user";
  const std::string name = unique_name();
  UniqueFd listener;
  // The one who listens is who SO_PEERCRED names.
  ASSERT_EQ(::seteuid(4711), 0);
  listener = listen_at(name);
  ASSERT_EQ(::seteuid(0), 0);
  ASSERT_TRUE(listener);
  const auto refused = [&] {
    if (::geteuid() != 65534) return 97;
    const auto client = Client::connect_daemon(name);
    return !client && client.error().sys_errno == EPERM &&
                   client.error().message.find("may be anybody") != std::string::npos
               ? 0
               : 1;
  };
  const int result = as(4712, true, refused);
  if (result == 99) GTEST_SKIP() << "needs user namespaces for users";
  EXPECT_EQ(result, 0);
}

TEST(Client, NamesOfSocketsAreChecked) {
  EXPECT_EQ(Client::connect_daemon("").error().sys_errno, EINVAL);
  EXPECT_EQ(Client::connect_daemon("@").error().sys_errno, EINVAL);
  EXPECT_EQ(Client::connect_daemon(std::string(200, 'x')).error().sys_errno, ENAMETOOLONG);
  const auto missing = Client::connect_daemon("/nonexistent/pspd.sock");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().sys_errno, ENOENT);
  EXPECT_EQ(missing.error().message,
            "no pspd answers at /nonexistent/pspd.sock: start one with "
            "'pspd --dev IFNAME'");
}

// kernel_has_psp: then connect() prefers it and these tests have nothing to show.
bool kernel_has_psp() {
  const auto client = Client::connect("@softpsp-test-nobody-is-here");
  return client.has_value();
}

TEST(Connect, WithoutFamilyAndDaemonSaysWhatToDo) {
  const auto client = Client::connect("@softpsp-test-nobody-is-here");
  if (client) GTEST_SKIP() << "this kernel has the psp family";
  EXPECT_EQ(client.error().sys_errno, ENOENT);
  EXPECT_EQ(client.error().message,
            "this kernel has no PSP (CONFIG_INET_PSP) and no pspd answers at "
            "@softpsp-test-nobody-is-here: start one with 'pspd --dev IFNAME'");
}

TEST(Connect, FindsTheDaemonWhereTheKernelHasNoDevice) {
  Daemon daemon;
  const auto client = Client::connect(daemon.name());
  ASSERT_TRUE(client) << client.error().message;
  if (client->provider() == Client::Provider::kKernel)
    GTEST_SKIP() << "this kernel has a PSP device of its own";
  EXPECT_EQ(client->provider(), Client::Provider::kDaemon);
}

TEST(Connect, TheDefaultSocketCanBeMovedByEnvironment) {
  ::unsetenv("PSP_SOCKET");
  EXPECT_EQ(default_socket(), "@softpsp");
  ::setenv("PSP_SOCKET", "/run/other", 1);
  EXPECT_EQ(default_socket(), "/run/other");
  ::setenv("PSP_SOCKET", "", 1);
  EXPECT_EQ(default_socket(), "@softpsp");
  ::unsetenv("PSP_SOCKET");
}

class CApi : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kernel_has_psp()) GTEST_SKIP() << "this kernel has the psp family: not pspd's turn";
    ::setenv("PSP_SOCKET", daemon_.name().c_str(), 1);
  }
  void TearDown() override { ::unsetenv("PSP_SOCKET"); }
  Daemon daemon_;
  psp_error error_ = PSP_ERROR_INIT;
};

TEST_F(CApi, SecuresASocketWithTwoCalls) {
  TcpPair tcp;
  psp_key rx, tx = {.spi = 9, .key_len = 16, .key = {1, 2, 3}};
  ASSERT_EQ(psp_rx_assoc(tcp.near.get(), PSP_VERSION_AES_GMAC_256, &rx, &error_), 0) << error_.text;
  EXPECT_EQ(rx.spi, 0x101u);
  EXPECT_EQ(rx.key_len, 32u);
  EXPECT_EQ(rx.key[31], 31);
  EXPECT_EQ(psp_tx_assoc(tcp.near.get(), PSP_VERSION_AES_GMAC_256, &tx, &error_), -EINVAL);
  EXPECT_STREQ(error_.text, "incorrect key length");
  EXPECT_STREQ(error_.attr, ".tx-key.key");
  tx.key_len = 32;
  EXPECT_EQ(psp_tx_assoc(tcp.near.get(), PSP_VERSION_AES_GMAC_256, &tx, nullptr), 0);
  EXPECT_EQ(psp_tx_assoc(tcp.near.get(), PSP_VERSION_AES_GMAC_256, &tx, &error_), -EBUSY);
  EXPECT_STREQ(error_.text, "Tx key already set");
  EXPECT_STREQ(error_.attr, "");
  tx.key_len = 33;
  EXPECT_EQ(psp_tx_assoc(tcp.near.get(), PSP_VERSION_AES_GMAC_256, &tx, &error_), -EINVAL);
  EXPECT_EQ(psp_rx_assoc(tcp.near.get(), 4, &rx, &error_), -ERANGE);
  EXPECT_STREQ(error_.attr, ".version");
  psp_key_wipe(&rx);
  EXPECT_EQ(rx.spi, 0u);
  EXPECT_EQ(rx.key[31], 0);
}

TEST_F(CApi, ManagesDevices) {
  psp_device device = PSP_DEVICE_INIT;
  EXPECT_EQ(psp_dev_set(1, 0x3, &error_), 0);
  EXPECT_EQ(psp_dev_list(nullptr, 0, &error_), 1);
  EXPECT_EQ(psp_dev_list(&device, 1, &error_), 1);
  EXPECT_EQ(device.id, 1u);
  EXPECT_EQ(device.ifindex, 7u);
  EXPECT_EQ(device.versions_cap, 0xfu);
  EXPECT_EQ(device.versions_ena, 0x3u);
  EXPECT_EQ(device.associated, 0u);
  EXPECT_EQ(device.by_association, 0u);
  EXPECT_EQ(psp_dev_assoc(1, 50, 3, &error_), 0);
  EXPECT_EQ(psp_dev_assoc(1, 50, -1, &error_), 0) << "of the caller's own namespace";
  EXPECT_EQ(psp_dev_assoc(1, 50, 3, &error_), -EBUSY);
  EXPECT_STREQ(error_.text, "Device already associated with a PSP device");
  EXPECT_EQ(psp_dev_list(&device, 1, &error_), 1);
  EXPECT_EQ(device.associated, 2u);
  EXPECT_EQ(psp_dev_disassoc(1, 51, 3, &error_), -ENODEV);
  EXPECT_STREQ(error_.attr, ".ifindex");
  EXPECT_EQ(psp_dev_disassoc(1, 50, 99, &error_), -EINVAL);
  EXPECT_STREQ(error_.attr, ".nsid");
  EXPECT_EQ(psp_dev_disassoc(1, 50, 3, &error_), 0);
  EXPECT_EQ(psp_key_rotate(1, &error_), 0);
  psp_stats stats = PSP_STATS_INIT;
  EXPECT_EQ(psp_get_stats(1, &stats, &error_), 0);
  EXPECT_EQ(stats.key_rotations, 1u);
  EXPECT_EQ(psp_get_stats(2, &stats, &error_), -ENODEV);
  EXPECT_STREQ(error_.text, "get-stats: No such device");
}

// Untouched fills a struct with a pattern and says how much of that is left at its end.
template <typename T>
struct Untouched {
  T value;
  explicit Untouched(std::size_t size) {
    std::memset(static_cast<void*>(&value), 0x5a, sizeof value);
    value.size = size;
  }
  std::size_t written() const {
    const auto* octets = reinterpret_cast<const unsigned char*>(&value);
    std::size_t end = sizeof value;
    while (end > sizeof value.size && octets[end - 1] == 0x5a) end--;
    return end;
  }
};

TEST_F(CApi, AnOlderSmallerStructIsFilledNoFurtherThanItsSize) {
  for (const std::size_t size : {offsetof(psp_stats, rx_packets), offsetof(psp_stats, tx_error)}) {
    Untouched<psp_stats> stats(size);
    EXPECT_EQ(psp_get_stats(1, &stats.value, &error_), 0);
    EXPECT_EQ(stats.written(), size);
    EXPECT_EQ(stats.value.size, size);
    EXPECT_EQ(stats.value.dev_id, 1u);
  }
  Untouched<psp_device> device(offsetof(psp_device, versions_ena) + 4);
  EXPECT_EQ(psp_dev_list(&device.value, 1, &error_), 1);
  EXPECT_EQ(device.written(), offsetof(psp_device, versions_ena) + 4);
  EXPECT_EQ(device.value.ifindex, 7u);
  Untouched<psp_error> error(offsetof(psp_error, attr));
  EXPECT_EQ(psp_key_rotate(9, &error.value), -ENODEV);
  EXPECT_EQ(error.written(), sizeof error.value.size) << "a text without its end";
}

TEST_F(CApi, AStructOfALaterVersionIsFilledAsFarAsItIsKnown) {
  struct Later {
    psp_stats known;
    std::uint64_t news[2];
  };
  union {
    Later later = {.known = {}, .news = {7, 8}};
    psp_stats stats;
  } of;
  of.stats.size = sizeof of.later;
  EXPECT_EQ(psp_get_stats(1, &of.stats, &error_), 0);
  EXPECT_EQ(of.stats.dev_id, 1u);
  EXPECT_EQ(of.later.news[0], 7u);
}

TEST_F(CApi, AStructWithoutItsSizeIsRefused) {
  Untouched<psp_stats> stats(0);
  EXPECT_EQ(psp_get_stats(1, &stats.value, &error_), -EINVAL);
  EXPECT_STREQ(error_.text, "psp_stats: its size is not set (PSP_STATS_INIT)");
  EXPECT_EQ(stats.written(), sizeof stats.value.size);
  for (const std::size_t size : {std::size_t{0}, sizeof(std::size_t), sizeof(psp_device) + 1}) {
    Untouched<psp_device> device(size);
    EXPECT_EQ(psp_dev_list(&device.value, 1, &error_), -EINVAL);
    EXPECT_EQ(device.written(), sizeof device.value.size);
  }
  Untouched<psp_error> error(0);
  EXPECT_EQ(psp_key_rotate(9, &error.value), -ENODEV);
  EXPECT_EQ(error.written(), sizeof error.value.size);
}

TEST_F(CApi, IsCallableFromC) { EXPECT_EQ(psp_c_header_test(&error_), -EBADF); }

}  // namespace
}  // namespace psp::netlink
