// SPDX-License-Identifier: Apache-2.0
//
// Netdevs that lie on others (VLAN, bond, bridge, macvlan, ipvlan): as the netdev of a PSP device,
// and on top of one. Which of them there are depends on the kernel: those it has not are left out,
// and named.
//
//   A top0 - low0 --veth-- low0 - top0 B
#include <array>
#include <cstdlib>
#include <cstring>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "container.hh"

namespace psp::lab {
namespace {

struct Stack {
  const char* name;
  const char* make;  // makes top0 on low0
};

constexpr std::array kStacks = {
    Stack{"Vlan", "ip link add link low0 name top0 type vlan id 5"},
    Stack{"Bond",
          "ip link add top0 type bond mode active-backup miimon 20 && ip link set low0 down && "
          "ip link set low0 master top0"},
    Stack{"Bridge", "ip link add top0 type bridge && ip link set low0 master top0"},
    Stack{"Macvlan", "ip link add link low0 name top0 type macvlan"},
    Stack{"Ipvlan", "ip link add link low0 name top0 type ipvlan mode l2"},
};

// stacks_here are those that this kernel can; all of them where that cannot be found out.
const std::vector<Stack>& stacks_here() {
  static const std::vector<Stack> here = [] {
    std::vector<Stack> found;
    for (const Stack& stack : kStacks)
      if (missing() || Netns().try_sh(fmt::format("ip link add low0 type veth && {}", stack.make)))
        found.push_back(stack);
      else
        fmt::print("left out: {}: this kernel has no such netdev\n", stack.name);
    return found;
  }();
  return here;
}

bool is_a(const Stack& stack, std::string_view name) { return stack.name == name; }

std::vector<Stack> only(std::string_view name) {
  std::vector<Stack> found = stacks_here();
  std::erase_if(found, [&](const Stack& stack) { return !is_a(stack, name); });
  return found;
}

std::vector<Stack> all_but(std::initializer_list<std::string_view> names) {
  std::vector<Stack> found = stacks_here();
  for (const std::string_view name : names)
    std::erase_if(found, [&](const Stack& stack) { return is_a(stack, name); });
  return found;
}

std::string name_of(const testing::TestParamInfo<std::tuple<Stack, Kind>>& parameters) {
  const auto& [stack, kind] = parameters.param;
  return stack.name + kind_name(kind);
}

class Stacked : public testing::TestWithParam<std::tuple<Stack, Kind>> {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    lab_.emplace();
    host(From::kA).sh(fmt::format("ip link add low0 type veth peer name low0 netns /proc/{}/fd/{}",
                                  ::getpid(), host(From::kB).fd()));
    for (const From side : {From::kA, From::kB})
      host(side).sh(
          fmt::format("{} && ip addr add 10.79.0.{}/24 dev top0 && ip addr add fd79::{}/64 dev "
                      "top0 nodad && ip link set low0 up && ip link set top0 up",
                      std::get<Stack>(GetParam()).make, number(side), number(side)));
    for (const From side : {From::kA, From::kB})
      EXPECT_TRUE(eventually([&] {
        return host(side).sh("ip -br link show top0").find(" UP ") != std::string::npos;
      }));
  }
  static int number(From side) { return side == From::kA ? 1 : 2; }
  Netns& host(From side) { return lab_->ns(side); }
  static const char* peer() {
    return std::get<Kind>(GetParam()) == Kind::kIpv6 ? "fd79::2" : "10.79.0.2";
  }
  Connection connect_over_top() { return connect(host(From::kA), host(From::kB), peer()); }
  // associate_top lets top0 use low0's device, on both hosts.
  void associate_top() {
    for (const From side : {From::kA, From::kB}) {
      lab_->start(side, {"--dev", "low0"});
      const auto done =
          lab_->client(side).dev_assoc(device_below(side), ifindex_of(host(side), "top0"));
      ASSERT_TRUE(done) << done.error().message;
    }
  }
  // device_below is the number of low0's device.
  std::uint32_t device_below(From side) {
    const std::vector<DeviceInfo> devices = lab_->client(side).devices().value();
    for (const DeviceInfo& device : devices)
      if (device.ifindex == ifindex_of(host(side), "low0")) return device.id;
    return 0;
  }
  static void expect_carried(const Connection& connection, const Octets& data) {
    send_all(connection.a.get(), data);
    EXPECT_EQ(receive(connection.b.get(), data.size(), 10s), data);
    send_all(connection.b.get(), data);
    EXPECT_EQ(receive(connection.a.get(), data.size(), 10s), data);
  }
  std::optional<Lab> lab_;
};

class StackedAssociated : public Stacked {};
class Bridged : public Stacked {};
class Ipvlans : public Stacked {};

// StackedContainers: top0 of host A is a container's; where a netdev cannot lie on another one in
// another namespace, the container has a veth, whose end here is a port of top0.
class StackedContainers : public Stacked {
 protected:
  void SetUp() override {
    Stacked::SetUp();
    if (HasFatalFailure() || IsSkipped()) return;
    for (const From side : {From::kA, From::kB}) lab_->start(side, {"--dev", "low0"});
    Netns& a = host(From::kA);
    const std::string there = fmt::format("/proc/{}/fd/{}", ::getpid(), box_.fd());
    const bool bridge = is_a(std::get<Stack>(GetParam()), "Bridge");
    a.sh(bridge ? "ip link add port0 type veth peer name in0 netns " + there +
                      " && ip link set port0 up && ip link set port0 master top0 && ip addr flush "
                      "dev top0"
                : "ip link set top0 name in0 netns " + there);
    box_.sh(
        "ip addr add 10.79.0.1/24 dev in0 && ip addr add fd79::1/64 dev in0 nodad && ip link set "
        "in0 up");
    // The kernel gives the namespace a number when somebody asks for one.
    a.sh("ip link add number type veth peer name number netns " + there);
    const std::string shown = a.sh("ip -j link show number"), key = "\"link_netnsid\":";
    const int nsid = std::stoi(shown.substr(shown.find(key) + key.size()));
    const auto done =
        lab_->client(From::kA).dev_assoc(device_below(From::kA), ifindex_of(box_, "in0"), nsid);
    ASSERT_TRUE(done) << done.error().message;
  }
  Client client_inside() {
    const InNetns inside(box_);
    return Client::connect_daemon("@softpsp").value();
  }
  Netns box_;
};

// Wiretap hears the frames of a netdev, both ways.
class Wiretap {
 public:
  Wiretap(const Netns& netns, const std::string& name) {
    const InNetns inside(netns);
    fd_.reset(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
    const int room = 1 << 24;
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    sockaddr_ll where{};
    where.sll_family = AF_PACKET;
    where.sll_protocol = htons(ETH_P_ALL);
    where.sll_ifindex = static_cast<int>(ifindex_of(netns, name));
    EXPECT_EQ(::bind(fd_.get(), reinterpret_cast<sockaddr*>(&where), sizeof where), 0);
  }
  // heard: does one of the frames since the last call hold the beginning of `content`?
  bool heard(const Octets& content) {
    Octets frame(1 << 17);
    bool found = false;
    for (ssize_t n; (n = ::recv(fd_.get(), frame.data(), frame.size(), MSG_DONTWAIT)) > 0;
         ++frames_)
      found |= ::memmem(frame.data(), static_cast<std::size_t>(n), content.data(), 16) != nullptr;
    return found;
  }
  std::size_t frames() const { return frames_; }

 private:
  UniqueFd fd_;
  std::size_t frames_ = 0;
};

TEST_P(Stacked, ANetdevThatLiesOnAnotherHasAPspDeviceAsAnyOther) {
  for (const From side : {From::kA, From::kB}) lab_->start(side, {"--dev", "top0"});
  const Connection connection = connect_over_top();
  Wiretap below(host(From::kA), "low0");
  const Octets clear = random_octets(1000), data = random_octets(200'000);
  expect_carried(connection, clear);
  EXPECT_TRUE(below.heard(clear)) << "the tap is deaf";
  secure(*lab_, connection);
  expect_carried(connection, data);
  EXPECT_FALSE(below.heard(data));
  EXPECT_GT(below.frames(), 0u);
  for (const From side : {From::kA, From::kB}) EXPECT_EQ(lab_->stop(side), 0);
}

TEST_P(Stacked, OnTopOfADevicesNetdevConnectionsHaveNoDeviceAndGoOnInClear) {
  for (const From side : {From::kA, From::kB}) lab_->start(side, {"--dev", "low0"});
  const Connection connection = connect_over_top();
  Client client = lab_->client(From::kA);
  const auto refused = client.rx_assoc(connection.a.get(), Version::kAesGcm128);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().sys_errno, EINVAL) << refused.error().message;
  EXPECT_NE(refused.error().text.find("route leads by a netdev without PSP device: start pspd"),
            std::string::npos)
      << refused.error().text;
  expect_carried(connection, random_octets(50'000));
}

TEST_P(StackedAssociated, UseTheDeviceBelow) {
  ASSERT_NO_FATAL_FAILURE(associate_top());
  const Connection connection = connect_over_top();
  Wiretap below(host(From::kA), "low0");
  const Octets clear = random_octets(1000), data = random_octets(200'000);
  expect_carried(connection, clear);
  EXPECT_TRUE(below.heard(clear)) << "the tap is deaf";
  secure(*lab_, connection);
  expect_carried(connection, data);
  EXPECT_FALSE(below.heard(data));
}

TEST_P(StackedAssociated, ServePrograms) {
  ASSERT_NO_FATAL_FAILURE(associate_top());
  const std::string program = PSP_CAT_PATH " --insecure-first-use";
  host(From::kB).sh(program + " -l 7000 >/dev/null 2>&1 & sleep 0.5");
  const std::string said = host(From::kA).sh(
      fmt::format("head -c 300000 /dev/zero | timeout 20 {} {} 7000 2>&1", program, peer()));
  EXPECT_NE(said.find("by PSP"), std::string::npos) << said;
  for (const From side : {From::kA, From::kB})
    EXPECT_GT(lab_->client(side).stats(device_below(side)).value().rx_packets, 3u);
}

TEST_P(StackedContainers, AreSealedOnTheDevicesNetdev) {
  const auto associated =
      lab_->client(From::kB).dev_assoc(device_below(From::kB), ifindex_of(host(From::kB), "top0"));
  ASSERT_TRUE(associated) << associated.error().message;
  const Connection connection = connect(box_, host(From::kB), peer());
  Wiretap below(host(From::kA), "low0");
  const Octets clear = random_octets(1000), data = random_octets(200'000);
  expect_carried(connection, clear);
  EXPECT_TRUE(below.heard(clear)) << "the tap is deaf";
  secure(client_inside(), lab_->client(From::kB), connection);
  expect_carried(connection, data);
  EXPECT_FALSE(below.heard(data));
}

TEST_P(Bridged, APortTakesPspForItselfAgainWhenItIsLetGo) {
  ASSERT_NO_FATAL_FAILURE(associate_top());
  EXPECT_TRUE(eventually([&] {
    return lab_->pspd(From::kA).log().find("low0 is a port of top0") != std::string::npos;
  }));
  host(From::kA).sh(
      "ip link set low0 nomaster && ip link del top0 && ip addr add 10.79.0.1/24 dev low0 && "
      "ip addr add fd79::1/64 dev low0 nodad");
  const Connection connection = connect_over_top();
  secure(*lab_, connection);
  expect_carried(connection, random_octets(50'000));
  EXPECT_GT(lab_->client(From::kA).stats(device_below(From::kA)).value().rx_packets, 3u);
}

// CI leaves nothing out but what its kernel is known to lack (docs/semantics.md).
TEST(StacksHere, HaveABridgeAndAMacvlanInCi) {
  if (std::getenv("CI") == nullptr) return;
  PSP_NEEDS_LAB();
  EXPECT_FALSE(only("Bridge").empty());
  EXPECT_FALSE(only("Macvlan").empty());
}

// What comes for one would be taken by the program of the netdev whose address it has.
TEST_P(Ipvlans, CannotBeAssociatedWithTheDeviceBelowAndSayWhatCan) {
  lab_->start(From::kA, {"--dev", "low0"});
  const auto refused =
      lab_->client(From::kA).dev_assoc(device_below(From::kA), ifindex_of(host(From::kA), "top0"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().sys_errno, EOPNOTSUPP);
  EXPECT_NE(refused.error().message.find("take a macvlan"), std::string::npos);
  // Nor can both have a device of their own.
  EXPECT_EQ(lab_->stop(From::kA), 0);
  Pspd both(host(From::kA), {"--dev", "low0", "--dev", "top0"});
  EXPECT_TRUE(both.wait_said("have one address"));
}

// The proof of what was opened at a port is not believed at its master, for any port can forge it.
TEST_P(Bridged, OneThatIsAssociatedMayBecomeThePortOfABridgeThatIsAssociatedToo) {
  host(From::kA).sh("ip link set low0 nomaster");
  ASSERT_NO_FATAL_FAILURE(associate_top());
  host(From::kA).sh("ip link set low0 master top0");
  const Connection connection = connect_over_top();
  secure(*lab_, connection);
  expect_carried(connection, random_octets(50'000));
  host(From::kA).sh("ip link set low0 down && ip link set low0 up");
  expect_carried(connection, random_octets(50'000));
  const auto disassociated = lab_->client(From::kA).dev_disassoc(
      device_below(From::kA), ifindex_of(host(From::kA), "top0"));
  ASSERT_TRUE(disassociated);
  Wiretap wire(host(From::kA), "low0");
  const Octets lost = random_octets(1000);
  send_all(connection.a.get(), lost);
  EXPECT_TRUE(receive(connection.b.get(), lost.size(), 500ms).empty());
  EXPECT_FALSE(wire.heard(lost));
}

TEST_P(Stacked, WhoNamesTheDeviceBelowGetsSilenceFromTxAssocOn) {
  lab_->start(From::kA, {"--dev", "low0"});
  const Connection connection = connect_over_top();
  Client client = lab_->client(From::kA);
  const std::uint32_t below = device_below(From::kA);
  ASSERT_TRUE(client.rx_assoc(connection.a.get(), Version::kAesGcm128, below));
  expect_carried(connection, random_octets(1000));
  ASSERT_TRUE(client.tx_assoc(connection.a.get(), Version::kAesGcm128,
                              random_key(Version::kAesGcm128), below));
  Wiretap wire(host(From::kA), "low0");
  const Octets lost = random_octets(1000);
  send_all(connection.a.get(), lost);
  EXPECT_TRUE(eventually([&] { return lab_->drops(From::kA, "POLICY_ROUTE") > 0; }));
  EXPECT_EQ(pending(connection.b.get()), Octets());
  EXPECT_FALSE(wire.heard(lost));
}

INSTANTIATE_TEST_SUITE_P(Netdevs, Stacked,
                         testing::Combine(testing::ValuesIn(stacks_here()),
                                          testing::Values(Kind::kIpv4, Kind::kIpv6)),
                         name_of);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Stacked);
INSTANTIATE_TEST_SUITE_P(Netdevs, StackedAssociated,
                         testing::Combine(testing::ValuesIn(all_but({"Ipvlan"})),
                                          testing::Values(Kind::kIpv4, Kind::kIpv6)),
                         name_of);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(StackedAssociated);
INSTANTIATE_TEST_SUITE_P(Netdevs, StackedContainers,
                         testing::Combine(testing::ValuesIn(all_but({"Ipvlan", "Bond"})),
                                          testing::Values(Kind::kIpv4, Kind::kIpv6)),
                         name_of);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(StackedContainers);
INSTANTIATE_TEST_SUITE_P(Netdevs, Bridged,
                         testing::Combine(testing::ValuesIn(only("Bridge")),
                                          testing::Values(Kind::kIpv4, Kind::kIpv6)),
                         name_of);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Bridged);
INSTANTIATE_TEST_SUITE_P(Netdevs, Ipvlans,
                         testing::Combine(testing::ValuesIn(only("Ipvlan")),
                                          testing::Values(Kind::kIpv4, Kind::kIpv6)),
                         name_of);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Ipvlans);

}  // namespace
}  // namespace psp::lab
