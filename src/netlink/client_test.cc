// SPDX-License-Identifier: Apache-2.0
//
// Client: what it asks and reads, and how it says what was refused, against a Server. The Server is
// the real one in a thread, over a real unix socket with real descriptors; behind it is the real
// Core with models (client_test_support.hh). What the Client says is compared with what the models
// saw, what it reads with what they hold. Client and Server share their messages: their octets are
// in server_test.cc. With a kernel's own family: tests/kernel.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <libmnl/libmnl.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <thread>

#include "client_test_support.hh"

namespace psp::netlink {
namespace {

using testing::connect_to;
using testing::cookie_of;
using testing::Daemon;
using testing::TcpPair;

TEST(Client, SecuresTheVerySocketItWasGiven) {
  Daemon daemon;
  Client client = connect_to(daemon);
  EXPECT_TRUE(client.has(Provider::kDaemon));
  EXPECT_FALSE(client.has(Provider::kKernel));
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
    EXPECT_EQ(daemon.driver.added.back().spi.value, 0x80000077u);
    EXPECT_EQ(daemon.driver.added.back().key, std::vector<std::uint8_t>(32, 0x5a));
  });
}

TEST(Client, AnswersOfEveryRequestAreRead) {
  Daemon daemon;
  daemon.with([&] {
    daemon.driver.counters = {.rx_packets = 1,
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

// number_here gives the network namespace of this thread a number in its own table.
void number_here(std::int32_t nsid) {
  const UniqueFd here(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  mnl_socket* const socket = mnl_socket_open(NETLINK_ROUTE);
  alignas(nlmsghdr) char buffer[1024];
  nlmsghdr* const request = mnl_nlmsg_put_header(buffer);
  request->nlmsg_type = RTM_NEWNSID;
  request->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  mnl_nlmsg_put_extra_header(request, sizeof(rtgenmsg));
  mnl_attr_put_u32(request, NETNSA_FD, static_cast<std::uint32_t>(here.get()));
  mnl_attr_put_u32(request, NETNSA_NSID, static_cast<std::uint32_t>(nsid));
  EXPECT_GT(mnl_socket_sendto(socket, request, request->nlmsg_len), 0);
  const ssize_t got = mnl_socket_recvfrom(socket, buffer, sizeof buffer);
  EXPECT_EQ(mnl_cb_run(buffer, static_cast<std::size_t>(got), 0, 0, nullptr, nullptr), MNL_CB_STOP);
  mnl_socket_close(socket);
}

TEST(Client, OurOwnNamespaceHasNoNumberWhoeverGaveItOne) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, for a network namespace";
  std::thread([] {
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
    number_here(3);
    Daemon daemon;
    Client client = connect_to(daemon);
    ASSERT_TRUE(client.dev_assoc(1, 50, 3));
    ASSERT_TRUE(client.dev_assoc(1, 50, 4));
    const auto devices = client.devices();
    ASSERT_TRUE(devices);
    ASSERT_EQ(devices->front().associated.size(), 2u);
    EXPECT_EQ(devices->front().associated[0].nsid, -1);
    EXPECT_EQ(devices->front().associated[1].nsid, 4);
    EXPECT_EQ(client.device(1)->associated[0].nsid, -1);
    ASSERT_TRUE(client.subscribe(true, false));
    ASSERT_TRUE(client.dev_assoc(1, 51, 3));
    // The model's client hears what is said in each namespace: this one's has the whole list.
    std::optional<Notification> heard;
    do {
      const auto next = client.next_notification(std::chrono::milliseconds(5000));
      ASSERT_TRUE(next && *next);
      heard = *next;
    } while (heard->device.by_association);
    ASSERT_EQ(heard->device.associated.size(), 3u);
    EXPECT_EQ(heard->device.associated[0].nsid, -1) << "who listens hears the same";
    EXPECT_EQ(heard->device.associated[1].nsid, 4);
  }).join();
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
  info.ifname = "eth0";
  info.family = 6;
  info.local_address = "2001:db8::1";
  info.peer_address = "2001:db8::2";
  info.local_port = 65535;
  info.peer_port = 7000;
  info.state = 3;
  info.tcp_state = "established";
  info.rx = {.spi = 0x80000001, .rotation = 0, .dev_id = 1, .generation = 127, .version = 3};
  info.stale = true;
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
  EXPECT_EQ(got.version(), Version::kAesGmac256);
  EXPECT_EQ(got.rx.generation, 127u);
  EXPECT_TRUE(got.stale);
  EXPECT_EQ(got.rx.spi, expected.rx.spi);
  EXPECT_EQ(got.tx_spi, expected.tx_spi);
  EXPECT_EQ(got.rx_bytes, 0x100000000u);
  EXPECT_EQ(got.tx_packets, 3u);
  EXPECT_EQ(got.tx_bytes, 4u);
  EXPECT_EQ(got.rx_drops, 5u);
  EXPECT_FALSE(all->back().tx_spi);

  const auto info = daemon_info(client);
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
            "rx-assoc: the connection stays within this host (lo), where there is no PSP device "
            "(Invalid argument)");
  KeyInfo key{.spi = {5}, .key = {}};
  key.key.assign(std::vector<std::uint8_t>(16, 1));
  const auto tx = client.tx_assoc(tcp.near.get(), Version::kAesGcm128, key);
  ASSERT_FALSE(tx);
  EXPECT_EQ(tx.error().message, "tx" + rx.error().message.substr(2)) << "by any request";
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

}  // namespace
}  // namespace psp::netlink
