// SPDX-License-Identifier: Apache-2.0
//
// Root of a container, with a user namespace of its own, against the keys of everybody else that
// uses the same PSP device. It can do to its netdevs and its TAP what it likes; what pspd opens and
// seals there must be its own connections' alone.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "container.hh"

namespace psp::lab {
namespace {

constexpr Version kVersion = Version::kAesGcm128;
constexpr std::size_t kEthernet = 14;

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
  void send_to_box(const Seen& recorded) {
    constexpr std::size_t kIpv4AndUdp = 28;
    const InNetns inside(lab_->ns(From::kB));
    const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(1000);
    ::inet_pton(AF_INET, "10.99.0.2", &to.sin_addr);
    const std::size_t size = recorded.octets.size() - kIpv4AndUdp;
    EXPECT_EQ(::sendto(fd.get(), recorded.octets.data() + kIpv4AndUdp, size, 0,
                       reinterpret_cast<sockaddr*>(&to), sizeof to),
              static_cast<ssize_t>(size));
  }
  // ask_for_seal hands a segment to pspd as the tc program at the netdev does: to be sealed with
  // the Tx key of that handle (see bpf/abi.h).
  void ask_for_seal(const Octets& packet, std::uint32_t handle) {
    constexpr std::uint8_t kSeal = 0x02;
    Octets frame(kEthernet);
    frame[6] = kSeal;
    for (unsigned i = 0; i < 4; i++) frame[8 + i] = static_cast<std::uint8_t>(handle >> 8 * (3 - i));
    frame[12] = 0x08;
    frame.insert(frame.end(), packet.begin(), packet.end());
    EXPECT_EQ(::send(tap_.get(), frame.data(), frame.size(), 0),
              static_cast<ssize_t>(frame.size()));
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

TEST_F(ContainerRoot, ReadsNothingOfWhatIsSealedForTheHost) {
  Connection hosts = lab_->connect(Kind::kIpv4);
  secure(*lab_, hosts);
  Connection own = box_->connect(Kind::kIpv4);  // its SPI may be the same number
  box_->secure(own);
  const Octets secret = random_octets(500);
  const auto recorded = from_b(hosts, secret);
  ASSERT_FALSE(recorded.empty());
  on_tap();
  const auto failed = lab_->drops(From::kA, "AUTH_FAIL");
  for (const Seen& packet : recorded) send_to_box(packet);
  EXPECT_TRUE(eventually(
      [&] { return lab_->drops(From::kA, "AUTH_FAIL") >= failed + recorded.size(); }));
  const auto seen = on_tap();
  EXPECT_GE(seen.size(), recorded.size()) << "sealed, on their way to pspd";
  for (const Seen& packet : seen) EXPECT_FALSE(holds_part(packet.octets, secret));
}

TEST_F(ContainerRoot, GetsNoSealUnderAKeyOfTheHost) {
  Connection hosts = lab_->connect(Kind::kIpv4);
  const Secured keys = secure(*lab_, hosts);
  Connection own = box_->connect(Kind::kIpv4);
  const Secured own_keys = box_->secure(own);
  const Octets forged =
      clear_packet(hosts.flow, From::kA, {.seq = hosts.flow.a_isn + 1, .payload = random_octets(100)});
  on_tap();
  const auto refused = lab_->drops(From::kA, "TX_NO_ASSOC");
  // The first handles of a table.
  constexpr std::uint32_t kFirst = 1u << 24, kHandles = 8;
  for (std::uint32_t i = 0; i < kHandles; i++) ask_for_seal(forged, kFirst | i);
  EXPECT_TRUE(eventually(
      [&] { return lab_->drops(From::kA, "TX_NO_ASSOC") >= refused + kHandles - 1; }));
  bool own_seal = false;
  for (const Seen& packet : on_tap()) {
    EXPECT_FALSE(open(packet, kVersion, keys.b_rx)) << "sealed under the host's key";
    own_seal |= open(packet, kVersion, own_keys.b_rx).has_value();
  }
  EXPECT_TRUE(own_seal) << "pspd was asked and answered";
}

}  // namespace
}  // namespace psp::lab
