// SPDX-License-Identifier: Apache-2.0
//
// Netdevs come and go under a running pspd: removed, back again, renamed, moved to another
// namespace, down and up. The other devices go on, and whoever listens hears what the kernel says.
//
// One pspd has two netdevs; a secured connection by the first must go on whatever becomes of the
// second, and is tried at the end of each test. What a netdev that comes back gets is a new device:
// a device of the kernel's would have gone with its netdev too. A name that others take is no
// reason to take their netdev.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lab.hh"

namespace psp::lab {
namespace {

using Kinds = std::vector<Notification::Kind>;
constexpr auto kAdd = Notification::Kind::kDevAdd;
constexpr auto kDel = Notification::Kind::kDevDel;
constexpr auto kChange = Notification::Kind::kDevChange;

class Hotplug : public testing::Test {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    lab_.emplace(Lab::Options{.links = 2});
    lab_->start(From::kA, {"--dev", "eth1"});
    lab_->start(From::kB, {"--dev", "eth1"});
    others_.emplace(lab_->connect(Kind::kIpv4));
    secure(*lab_, *others_);
    const InNetns inside(lab_->ns(From::kA));
    listener_.emplace(lab_->client(From::kA));
    ASSERT_TRUE(listener_->subscribe(true, true));
  }
  void TearDown() override {
    if (!lab_) return;
    expect_carried(*others_);
    listener_.reset();
    lab_.reset();
  }
  Netns& host() { return lab_->ns(From::kA); }
  std::size_t device_count() { return lab_->client(From::kA).devices().value().size(); }
  // device_of is the id of the device that pspd shows for a netdev; 0 if there is none.
  std::uint32_t device_of(const std::string& ifname) {
    const DaemonInfo info = lab_->daemon_info(From::kA);
    for (const auto& device : info.devices)
      if (device.ifname == ifname) return device.id;
    return 0;
  }
  // notifications are those that came, about one device.
  Kinds notifications(std::uint32_t id) {
    Kinds kinds;
    while (auto one = listener_->next_notification(200ms).value())
      if (one->device.id == id) kinds.push_back(one->kind);
    return kinds;
  }
  static void expect_carried(const Connection& connection) {
    const Octets data = random_octets(5000);
    send_all(connection.a.get(), data);
    EXPECT_EQ(receive(connection.b.get(), data.size()), data);
    send_all(connection.b.get(), data);
    EXPECT_EQ(receive(connection.a.get(), data.size()), data);
  }
  Connection secured(unsigned link) {
    Connection connection = lab_->connect(Kind::kIpv4, {.link = link});
    secure(*lab_, connection);
    return connection;
  }
  // make_eth1 makes another netdev of that name; it is not on the cable.
  void make_eth1() {
    host().sh("ip link add eth1 type veth peer name peer1 && ip link set eth1 up");
  }

  std::optional<Lab> lab_;
  std::optional<Connection> others_;  // by eth0, to which nothing happens
  std::optional<Client> listener_;
};

TEST_F(Hotplug, ARemovedNetdevTakesItsDeviceAlongAndGetsANewOneWhenItIsBack) {
  const std::uint32_t first = device_of("eth1");
  host().sh("ip link del eth1");
  EXPECT_TRUE(eventually([&] { return device_count() == 1; }));
  EXPECT_EQ(notifications(first), Kinds{kDel});
  make_eth1();
  EXPECT_TRUE(eventually([&] { return device_of("eth1") != 0; }));
  const std::uint32_t second = device_of("eth1");
  EXPECT_NE(second, first);
  EXPECT_EQ(notifications(second), (Kinds{kAdd, kChange})) << "change: --enable all";
  EXPECT_EQ(lab_->client(From::kA).device(second)->versions_ena, VersionSet::all());
}

TEST_F(Hotplug, AnUnsuitableNetdevOfThatNameCostsOneComplaint) {
  host().sh("ip link del eth1");
  EXPECT_TRUE(eventually([&] { return device_count() == 1; }));
  host().sh("ip tuntap add eth1 mode tun && ip link set eth1 up");
  std::this_thread::sleep_for(2500ms);
  EXPECT_EQ(device_count(), 1u);
  const std::string& log = lab_->pspd(From::kA).log();
  const std::string complaint = "eth1 is not an Ethernet device";
  ASSERT_NE(log.find(complaint), std::string::npos) << log;
  EXPECT_EQ(log.find(complaint), log.rfind(complaint)) << log;
  host().sh("ip link del eth1");
  make_eth1();
  EXPECT_TRUE(eventually([&] { return device_count() == 2; }));
}

TEST_F(Hotplug, ARenamedNetdevKeepsItsDeviceUnderTheNewName) {
  Connection connection = secured(1);
  const std::uint32_t id = device_of("eth1");
  host().sh("ip link set eth1 name wan1");
  EXPECT_TRUE(eventually([&] { return device_of("wan1") == id; }));
  EXPECT_EQ(lab_->association(From::kA, connection.a.get())->ifname, "wan1");
  expect_carried(connection);
  expect_carried(secured(1));
  EXPECT_EQ(notifications(id), Kinds{});
  // The name is free, but the netdev that it was has its device still.
  make_eth1();
  std::this_thread::sleep_for(1500ms);
  EXPECT_EQ(device_count(), 2u);
  EXPECT_EQ(device_of("eth1"), 0u);
}

TEST_F(Hotplug, ANetdevThatIsSetDownAndUpKeepsItsDevice) {
  Connection connection = secured(1);
  const std::uint32_t id = device_of("eth1");
  host().sh(
      "ip link set eth1 down && sleep 0.3 && ip link set eth1 up && "
      "ip addr replace fd78::1/64 dev eth1 nodad && "
      "ip neigh replace 10.78.0.2 lladdr 02:00:00:00:00:02 dev eth1");
  expect_carried(connection);
  expect_carried(secured(1));
  EXPECT_EQ(device_of("eth1"), id);
  EXPECT_EQ(notifications(id), Kinds{});
}

TEST_F(Hotplug, ANetdevThatMovesToAnotherNamespaceIsGone) {
  Connection connection = secured(1);
  const std::uint32_t first = device_of("eth1");
  Netns elsewhere;
  const std::size_t mark = lab_->cable(1).mark();
  host().sh(fmt::format("ip link set eth1 netns /proc/{}/fd/{}", ::getpid(), elsewhere.fd()));
  EXPECT_TRUE(eventually([&] { return device_count() == 1; }));
  EXPECT_EQ(notifications(first), Kinds{kDel});
  EXPECT_EQ(elsewhere.sh("tc qdisc show dev eth1 clsact"), "");
  send_all(connection.a.get(), octets_of("nowhere to go, not in clear"));

  elsewhere.sh(fmt::format("ip link set eth1 netns /proc/{}/ns/net", lab_->pspd(From::kA).pid()));
  host().sh(
      "ip addr add 10.78.0.1/24 dev eth1 && ip link set eth1 up && "
      "ip neigh replace 10.78.0.2 lladdr 02:00:00:00:00:02 dev eth1");
  EXPECT_TRUE(eventually([&] { return device_of("eth1") != 0; }));
  EXPECT_NE(device_of("eth1"), first);
  expect_carried(secured(1));
  EXPECT_TRUE(pending(connection.b.get()).empty()) << "its key went with the device";
  expect_nothing_in_clear(*lab_, connection.flow, mark, octets_of("nowhere to go, not in clear"),
                          1);
}

// Waiting: a netdev that is not there when pspd starts.
class Waiting : public testing::Test {
 protected:
  void SetUp() override { PSP_NEEDS_LAB(); }
  static bool says(Pspd& daemon, const char* words) {
    return daemon.log().find(words) != std::string::npos;
  }
};

TEST_F(Waiting, GivesANetdevItsDeviceWhenItComes) {
  const Netns host;
  Pspd daemon(host, {"--dev", "late0", "--enable", "all"});
  ASSERT_TRUE(daemon.wait_ready()) << daemon.log();
  EXPECT_TRUE(says(daemon, "late0: there is no such netdev yet")) << daemon.log();
  EXPECT_TRUE(daemon.wait_said("pspd: ready, waiting for late0\n")) << daemon.log();
  host.sh("ip link add late0 type veth peer name peer0 && ip link set late0 up");
  EXPECT_TRUE(eventually([&] { return says(daemon, "late0: PSP device 1 with"); })) << daemon.log();
  EXPECT_NE(host.sh("tc filter show dev late0 egress").find("psp_egress"), std::string::npos);
  EXPECT_EQ(daemon.stop(), 0) << daemon.log();
  EXPECT_EQ(host.sh("tc qdisc show dev late0 clsact"), "");
}

TEST_F(Waiting, GivesItItsDeviceWhenThePspdThatHasItStops) {
  const Netns host;
  Pspd one(host, {"--dev", "late0"}), other(host, {"--dev", "late0", "--socket", "@other"});
  ASSERT_TRUE(one.wait_ready() && other.wait_ready());
  host.sh("ip link add late0 type veth peer name peer0 && ip link set late0 up");
  const auto has = [](Pspd& daemon) { return says(daemon, "late0: PSP device 1 with"); };
  ASSERT_TRUE(eventually([&] { return has(one) || has(other); }));
  Pspd &first = has(one) ? one : other, &second = has(one) ? other : one;
  EXPECT_TRUE(eventually([&] { return says(second, "late0 has no PSP device, and cannot"); }))
      << second.log();
  EXPECT_EQ(first.stop(), 0) << first.log();
  EXPECT_TRUE(eventually([&] { return has(second); }, 60s)) << second.log();
  EXPECT_EQ(second.stop(), 0) << second.log();
}

TEST_F(Waiting, IsNotForWhoRequiresTheNetdevNorForANameThatNoneCanHave) {
  struct Case {
    std::vector<std::string> arguments;
    int code;
    const char* word;
  };
  const Netns host;
  for (const Case& one :
       {Case{{"--dev", "late0", "--require"}, 1, "there is no network device"},
        Case{{"--dev", "sixteen-octets-0"}, 2, "is no name of a netdev: 1 to 15 octets"}}) {
    Pspd daemon(host, one.arguments);
    EXPECT_FALSE(daemon.wait_ready());
    EXPECT_EQ(daemon.wait(), one.code);
    EXPECT_TRUE(says(daemon, one.word)) << daemon.log();
  }
}

}  // namespace
}  // namespace psp::lab
