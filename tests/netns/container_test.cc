// SPDX-License-Identifier: Apache-2.0
//
// dev-assoc: a container that secures its connections through the host's device, and what becomes
// of them when device, association, daemon or container go.
//
// The container is a namespace behind a veth of host A, or netkit where the kernel has it. The
// oracle is the cable: nothing of a secured connection is on it in clear, whatever goes first. pspd
// must leave a container as it was, and must not keep its namespace alive once nobody else does.
// What root in a container can do on purpose is in container_root_test.cc.
#include "container.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "device/state_table.h"

namespace psp::lab {
namespace {

class Containers : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    lab_.emplace();
    lab_->start(From::kA);
    lab_->start(From::kB);
    box_.emplace(*lab_);
  }
  void TearDown() override {
    box_.reset();
    lab_.reset();
  }

  Cable& cable() { return lab_->cable(); }
  DeviceInfo host_device() { return lab_->client(From::kA).devices().value().at(0); }
  Connection secured() {
    Connection connection = box_->connect(GetParam());
    box_->secure(connection);
    return connection;
  }
  void expect_carried(const Connection& connection, std::size_t size = 5000) {
    for (const auto& [from, to] : {std::pair{connection.a.get(), connection.b.get()},
                                   std::pair{connection.b.get(), connection.a.get()}}) {
      const Octets data = random_octets(size);
      send_all(from, data);
      EXPECT_EQ(receive(to, data.size()), data);
    }
  }
  // expect_blocked: what the container sends does not arrive, and nothing of it is in clear.
  void expect_blocked(const Connection& connection) {
    const std::size_t mark = cable().mark();
    const Octets lost = random_octets(3000);
    send_all(connection.a.get(), lost);
    EXPECT_TRUE(receive(connection.b.get(), lost.size(), 500ms).empty());
    expect_nothing_in_clear(*lab_, connection.flow, mark, lost);
  }
  std::string state_of_box() {
    return box_->ns().sh(
        "ip -o link | cut -d: -f2; tc qdisc show dev eth0; tc filter show dev eth0 ingress; "
        "tc filter show dev eth0 egress; ethtool -k eth0");
  }
  std::size_t descriptors() { return descriptors_of(lab_->pspd(From::kA).pid()); }
  // pspd_let_go: nothing of pspd is in the container any more. When the kernel then takes the
  // namespace apart is its own affair: it does so in batches.
  bool pspd_let_go(std::size_t descriptors_before) {
    return eventually(
        [&] { return host_device().associated.empty() && descriptors() <= descriptors_before; });
  }

  std::optional<Lab> lab_;
  std::optional<Container> box_;
};

TEST_P(Containers, SecureTheirConnectionsThroughTheHostsDevice) {
  ASSERT_TRUE(box_->associate());
  const DeviceInfo host = host_device();
  ASSERT_EQ(host.associated.size(), 1u);
  EXPECT_EQ(host.associated[0].ifindex, box_->ifindex());
  EXPECT_EQ(host.associated[0].nsid, box_->nsid());
  const auto inside = box_->client().devices();
  ASSERT_TRUE(inside);
  ASSERT_EQ(inside->size(), 1u);
  EXPECT_EQ((*inside)[0].id, host.id);
  EXPECT_TRUE((*inside)[0].by_association);

  Connection connection = box_->connect(GetParam());
  const std::size_t mark = cable().mark();
  const Secured keys = box_->secure(connection);
  expect_carried(connection, 200'000);
  const auto before = lab_->stats(From::kA);
  const Octets data = random_octets(100'000);
  send_all(connection.a.get(), data);
  EXPECT_EQ(receive(connection.b.get(), data.size()), data);
  EXPECT_GT(lab_->stats(From::kA).tx_packets, before.tx_packets) << "the host's device sealed it";
  expect_nothing_in_clear(*lab_, connection.flow, mark, data);
  EXPECT_TRUE(cable().find(mark, [&](const Seen& seen) {
    return seen.from == From::kA && open(seen, Version::kAesGcm128, keys.b_rx);
  }));
  const auto info = lab_->association(From::kA, connection.a.get());
  ASSERT_TRUE(info);
  EXPECT_EQ(info->rx.dev_id, host.id);
  EXPECT_EQ(info->state, unsigned{PSP_STATE_FULL});
  EXPECT_EQ(lab_->drops(From::kA, "POLICY_FORGED"), 0u);
}

TEST_P(Containers, MayBeBehindNetkit) {
  if (!Container::has_netkit()) {
    fmt::print("left out: netkit: this kernel has no such netdev\n");
    return;
  }
  for (const auto link : {Container::Link::kNetkitL2, Container::Link::kNetkitL3}) {
    lab_->ns(From::kA).sh("ip link del vc0");
    box_.emplace(*lab_, link);
    ASSERT_TRUE(box_->associate());
    Connection connection = box_->connect(GetParam());
    box_->secure(connection);
    const std::size_t mark = cable().mark();
    const Octets data = random_octets(100'000);
    send_all(connection.a.get(), data);
    EXPECT_EQ(receive(connection.b.get(), data.size()), data);
    expect_nothing_in_clear(*lab_, connection.flow, mark, data);
    expect_carried(connection);
  }
}

TEST_P(Containers, ForwardedByTheirHostAreSealedUdpInItsFirewallBothWays) {
  ASSERT_TRUE(box_->associate());
  Netns& host = lab_->ns(From::kA);
  host.sh(
      "nft add table inet t && nft add counter inet t out && nft add counter inet t in && "
      "nft add counter inet t clear && "
      "nft 'add chain inet t f { type filter hook forward priority 0; }' && "
      "nft add rule inet t f oif eth0 udp dport 1000 counter name out && "
      "nft add rule inet t f iif eth0 udp dport 1000 counter name in && "
      "nft add rule inet t f meta l4proto tcp counter name clear");
  const auto counted = [&](const char* name) {
    const std::string shown = host.sh(fmt::format("nft list counter inet t {}", name));
    return shown.find("packets 0 ") == std::string::npos;
  };
  const Connection connection = secured();
  EXPECT_TRUE(counted("clear")) << "what came before tx-assoc";
  host.sh("nft reset counters");
  expect_carried(connection);
  EXPECT_TRUE(counted("out"));
  EXPECT_TRUE(counted("in"));
  EXPECT_FALSE(counted("clear"));
  host.sh("nft insert rule inet t f udp dport 1000 drop");
  const Octets lost = random_octets(1000);
  send_all(connection.a.get(), lost);
  EXPECT_TRUE(receive(connection.b.get(), lost.size(), 500ms).empty());
  host.sh("nft flush chain inet t f");
  EXPECT_EQ(receive(connection.b.get(), lost.size(), 10s), lost);
}

// The lock of who takes over what a dead pspd left: a map of that name. Here nobody left anything.
TEST_P(Containers, AreAssociatedWhileAnotherPspdTakesSomethingOver) {
  bpf_attr lock{};
  lock.map_type = BPF_MAP_TYPE_QUEUE;
  lock.value_size = lock.max_entries = 1;
  std::strcpy(lock.map_name, "psp_AAAAAAAAAAA");
  const UniqueFd taken(static_cast<int>(::syscall(SYS_bpf, BPF_MAP_CREATE, &lock, sizeof lock)));
  ASSERT_TRUE(taken);
  EXPECT_TRUE(box_->associate()) << lab_->pspd(From::kA).log();
}

TEST_P(Containers, SeeARotationAsTheHostDoes) {
  ASSERT_TRUE(box_->associate());
  Connection connection = secured();
  Client client = lab_->client(From::kA);
  EXPECT_EQ(box_->client().key_rotate(host_device().id).error().sys_errno, ENOENT);
  ASSERT_TRUE(client.key_rotate(host_device().id));
  expect_carried(connection);
  Connection later = secured();
  ASSERT_TRUE(client.key_rotate(host_device().id));
  expect_carried(later);
  const Octets lost = random_octets(3000);
  send_all(connection.b.get(), lost);
  EXPECT_TRUE(receive(connection.a.get(), lost.size(), 500ms).empty());
  EXPECT_EQ(lab_->stats(From::kA).stale_events, 1u);
}

TEST_P(Containers, AreToldApartFromTheirHost) {
  ASSERT_TRUE(box_->associate());
  Connection hosts = lab_->connect(GetParam());
  secure(*lab_, hosts);
  Connection boxs = secured();
  expect_carried(hosts);
  expect_carried(boxs);
  EXPECT_EQ(lab_->client(From::kA).associations()->size(), 2u);
  const auto seen_inside = box_->client().associations();
  ASSERT_TRUE(seen_inside);
  ASSERT_EQ(seen_inside->size(), 1u) << "the host's are no business of the container's";
  EXPECT_EQ((*seen_inside)[0].cookie, lab_->association(From::kA, boxs.a.get())->cookie);
  box_->ns().sh("ip link set eth0 down");
  expect_carried(hosts);
  box_->ns().sh("ip link set eth0 up");
}

TEST_P(Containers, AreBlockedWithoutTheAssociation) {
  const std::string before = state_of_box();
  ASSERT_TRUE(box_->associate());
  Connection connection = secured();
  expect_carried(connection);
  ASSERT_TRUE(box_->disassociate());
  EXPECT_EQ(state_of_box(), before);
  EXPECT_TRUE(host_device().associated.empty());
  expect_blocked(connection);
  EXPECT_GT(lab_->drops(From::kA, "POLICY_ROUTE"), 0u);
  // It can come back, and with it the connection.
  ASSERT_TRUE(box_->associate());
  EXPECT_EQ(receive(connection.b.get(), 3000, 10s).size(), 3000u);
  ASSERT_TRUE(box_->disassociate());
  // Such a socket is not forgotten when pspd stops.
  EXPECT_EQ(lab_->stop(From::kA), 0);
  EXPECT_EQ(socket_error(connection.a.get()), ECONNABORTED);
}

TEST_P(Containers, EndWithTheirLastProcess) {
  Connection hosts = lab_->connect(GetParam());
  secure(*lab_, hosts);
  Client listener = lab_->client(From::kA);
  {
    const InNetns inside(lab_->ns(From::kA));
    ASSERT_TRUE(listener.subscribe(true, true));
  }
  const std::size_t before = descriptors();
  ASSERT_TRUE(box_->associate());
  Connection connection = secured();
  connection.a.reset();
  box_->kill();
  EXPECT_TRUE(pspd_let_go(before));
  for (int i = 0; i < 2; i++) {  // it came, it will end
    const auto notification = listener.next_notification(5s);
    ASSERT_TRUE(notification && *notification);
    EXPECT_EQ((*notification)->kind, Notification::Kind::kDevChange);
    EXPECT_EQ((*notification)->device.associated.size(), 1u);
  }
  EXPECT_TRUE(listener.devices().value().at(0).associated.empty());
  expect_carried(hosts);
  EXPECT_EQ(lab_->stop(From::kA), 0);
}

TEST_P(Containers, CountForTheDeviceAlsoWhenTheyHaveGone) {
  const std::size_t before = descriptors();
  ASSERT_TRUE(box_->associate());
  Connection connection = secured();
  expect_carried(connection);
  const StatsInfo stats = lab_->stats(From::kA);
  EXPECT_GT(stats.rx_packets, 0u);
  connection.a.reset();
  box_->kill();
  EXPECT_TRUE(pspd_let_go(before));
  const StatsInfo after = lab_->stats(From::kA);
  EXPECT_GE(after.rx_packets, stats.rx_packets);
  EXPECT_GE(after.rx_bytes, stats.rx_bytes);
  EXPECT_GE(after.tx_packets, stats.tx_packets);
  EXPECT_GE(after.tx_bytes, stats.tx_bytes);
}

TEST_P(Containers, KeepTheirNamespaceWhileASocketIsThere) {
  const std::size_t before = descriptors();
  ASSERT_TRUE(box_->associate());
  Connection connection = secured();
  box_->kill();
  std::this_thread::sleep_for(2500ms);
  expect_carried(connection);
  connection.a.reset();
  EXPECT_TRUE(pspd_let_go(before));
}

TEST_P(Containers, AreBlockedWhenPspdIsKilledAndReleasedByTheNext) {
  const std::string before = state_of_box();
  ASSERT_TRUE(box_->associate());
  Connection connection = secured();
  expect_carried(connection);
  lab_->kill(From::kA);
  expect_blocked(connection);
  lab_->start(From::kA);
  EXPECT_EQ(socket_error(connection.a.get()), ECONNABORTED);
  EXPECT_EQ(state_of_box(), before);
  ASSERT_TRUE(box_->associate());
  expect_carried(secured());
}

TEST_P(Containers, AreCleanedUpAfterAKilledPspd) {
  const std::string before = state_of_box();
  ASSERT_TRUE(box_->associate());
  Connection connection = secured();
  const auto programs = programs_of(lab_->pspd(From::kA).pid());
  lab_->kill(From::kA);
  lab_->clean_up(From::kA);
  EXPECT_EQ(socket_error(connection.a.get()), ECONNABORTED);
  EXPECT_EQ(state_of_box(), before);
  EXPECT_TRUE(eventually([&] { return !any_exists(programs); }));
}

TEST_P(Containers, ArePutBackByACleanStop) {
  const std::string before = state_of_box();
  ASSERT_TRUE(box_->associate());
  Connection connection = secured();
  const std::size_t mark = cable().mark();
  EXPECT_EQ(lab_->stop(From::kA), 0);
  EXPECT_EQ(socket_error(connection.a.get()), ECONNABORTED);
  EXPECT_NE(socket_error(connection.b.get()), 0) << "the peer is not told";
  expect_nothing_in_clear(*lab_, connection.flow, mark, random_octets(64));
  EXPECT_EQ(state_of_box(), before);
}

TEST_P(Containers, LoseOnlyTheirOwnWithTheirNetdevOrTap) {
  Connection hosts = lab_->connect(GetParam());
  secure(*lab_, hosts);
  for (const char* victim : {"psp0", "eth0"}) {
    ASSERT_TRUE(box_->associate());
    Connection connection = secured();
    expect_carried(connection);
    box_->ns().sh(fmt::format("ip link del {}", victim));
    EXPECT_TRUE(eventually([&] { return host_device().associated.empty(); })) << victim;
    if (victim[0] == 'p') expect_blocked(connection);
    expect_carried(hosts);
  }
}

TEST_P(Containers, CannotTakePspdsFiltersOff) {
  ASSERT_TRUE(box_->associate());
  Connection connection = secured();
  const std::size_t mark = cable().mark();
  box_->ns().sh("tc qdisc del dev eth0 clsact");
  expect_carried(connection, 50'000);
  expect_nothing_in_clear(*lab_, connection.flow, mark, random_octets(64));
}

INSTANTIATE_TEST_SUITE_P(Families, Containers, testing::Values(Kind::kIpv4, Kind::kIpv6),
                         [](const auto& kind) { return kind_name(kind.param); });

// A second netdev of the same namespace with the same device: as a bond's ports share a NIC's.
TEST(SameNamespace, TwoNetdevsShareADevice) {
  PSP_NEEDS_LAB();
  Lab lab({.links = 2});
  lab.start(From::kA);
  lab.start(From::kB, {"--dev", "eth1"});
  Client client = lab.client(From::kA);
  const std::uint32_t id = client.devices().value().at(0).id;
  const std::uint32_t eth1 = ifindex_of(lab.ns(From::kA), "eth1");
  auto refused = lab.connect(Kind::kIpv4, {.link = 1});
  EXPECT_FALSE(client.rx_assoc(refused.a.get(), Version::kAesGcm128));
  ASSERT_TRUE(client.dev_assoc(id, eth1));
  EXPECT_EQ(client.dev_assoc(id, eth1).error().sys_errno, EBUSY);
  EXPECT_EQ(client.dev_assoc(id, 4711).error().sys_errno, ENODEV);
  for (const unsigned link : {0u, 1u}) {
    auto connection = lab.connect(Kind::kIpv4, {.link = link});
    const std::size_t mark = lab.cable(link).mark();
    secure(lab, connection);
    const Octets data = random_octets(20'000);
    send_all(connection.a.get(), data);
    EXPECT_EQ(receive(connection.b.get(), data.size()), data);
    expect_nothing_in_clear(lab, connection.flow, mark, data, link);
    EXPECT_EQ(lab.association(From::kA, connection.a.get())->rx.dev_id, id);
  }
}

}  // namespace
}  // namespace psp::lab
