// SPDX-License-Identifier: Apache-2.0
//
// Netdevs that lie on others (VLAN, bond, bridge, macvlan, ipvlan): as the netdev of a PSP device,
// and on top of one. Which of them there are depends on the kernel: those it has not are left out,
// and named.
//
//   A top0 - low0 --veth-- low0 - top0 B
#include <array>
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
  Connection connect_over_top() {
    return connect(host(From::kA), host(From::kB),
                   std::get<Kind>(GetParam()) == Kind::kIpv6 ? "fd79::2" : "10.79.0.2");
  }
  static void expect_carried(const Connection& connection, const Octets& data) {
    send_all(connection.a.get(), data);
    EXPECT_EQ(receive(connection.b.get(), data.size(), 10s), data);
    send_all(connection.b.get(), data);
    EXPECT_EQ(receive(connection.a.get(), data.size(), 10s), data);
  }
  std::optional<Lab> lab_;
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
  expect_carried(connection, random_octets(50'000));
}

TEST_P(Stacked, WhoNamesTheDeviceBelowGetsSilenceFromTxAssocOn) {
  lab_->start(From::kA, {"--dev", "low0"});
  const Connection connection = connect_over_top();
  Client client = lab_->client(From::kA);
  std::uint32_t below = 0;
  const std::vector<DeviceInfo> devices = client.devices().value();
  for (const DeviceInfo& device : devices)
    if (device.ifindex == ifindex_of(host(From::kA), "low0")) below = device.id;
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

}  // namespace
}  // namespace psp::lab
