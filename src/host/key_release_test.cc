// SPDX-License-Identifier: Apache-2.0
//
// Who is given a key, for which packet, and what the log says about it: over a software device and
// a model of its socket. Packets are sealed by the test, under the key that the core gave out, and
// damaged by it on purpose.
//
// That only root of the home namespace may ask is the Server's to see to, and is tested there
// (server_netns_test.cc). A capture that asks a real pspd is in tests/netns/capture_test.cc.
#include "key_release.hh"

#include <gtest/gtest.h>

#include "device/core_fakes.hh"
#include "device/driver_test_support.hh"

#include "log_lines.hh"

namespace psp::host {
namespace {

using device::test::Octets;

constexpr std::uint64_t kNetns = 100;
constexpr Version kVersion = Version::kAesGcm128;

class KeyReleaseTest : public testing::Test {
 protected:
  void SetUp() override {
    driver_.join(kNetns);
    ASSERT_TRUE(core_.add_device({kNetns, 7}, "eth0", VersionSet::all(), driver_));
    ASSERT_TRUE(core_.set_versions(1, VersionSet::all()));
    sockets_.sockets[3].info = {
        .cookie = 3, .netns = kNetns, .route_ifindex = 7, .established = true};
    auto rx = core_.rx_assoc({.fd = 3, .dev_id = 1, .version = kVersion, .tx_key = {}});
    ASSERT_TRUE(rx);
    rx_.emplace(std::move(rx->rx_key));
  }
  Octets packet(Spi spi, std::span<const std::uint8_t> key) {
    return device::test::seal(crypto::openssl_backend(), spi, key, {});
  }
  device::Result<CapturedKey> ask(std::span<const std::uint8_t> datagram, bool allowed = true) {
    netlink::Caller caller;
    caller.uid = 0;
    caller.pid = 4711;
    return KeyRelease(
               core_, [this](std::uint16_t id) { return id == 1 ? &driver_ : nullptr; }, allowed,
               log_.log())
        .key_of(caller, datagram);
  }

  device::IvAllocator ivs_{[] { return std::uint64_t{1}; }};
  device::SoftwareDevice driver_{[this] {
    device::SoftwareDriverOptions options;
    options.backend = &crypto::openssl_backend();
    options.ivs = &ivs_;
    return options;
  }()};
  device::ModelSockets sockets_;
  device::Core core_{sockets_};
  std::optional<device::RxKey> rx_;
  test::LogLines log_;
};

TEST_F(KeyReleaseTest, GivesTheKeyOfAnAuthenticPacket) {
  const auto found = ask(packet(rx_->spi, rx_->key.span()));
  ASSERT_TRUE(found);
  EXPECT_EQ(found->spi, rx_->spi);
  EXPECT_TRUE(std::ranges::equal(found->key.span(), rx_->key.span()));
  EXPECT_TRUE(log_.has("KEY EXPORT: uid 0, pid 4711 was given the Rx key of SPI"));
}

TEST_F(KeyReleaseTest, GivesTheKeyOfWhatIsSentToo) {
  const Octets key(16, 9);
  device::AssocRequest request{.fd = 3, .dev_id = 1, .version = kVersion, .tx_key = {}};
  request.tx_key = {.spi = 77, .key = key};
  ASSERT_TRUE(core_.tx_assoc(request));
  const auto found = ask(packet(Spi{77}, key));
  ASSERT_TRUE(found);
  EXPECT_TRUE(std::ranges::equal(found->key.span(), key));
  EXPECT_TRUE(log_.has("the Tx key"));
}

TEST_F(KeyReleaseTest, GivesNothingForAPacketThatIsNotAuthentic) {
  Octets datagram = packet(rx_->spi, rx_->key.span());
  datagram.back() ^= 1;
  EXPECT_EQ(ask(datagram).error().sys_errno, ENOENT);
  EXPECT_EQ(ask(packet(Spi{4242}, rx_->key.span())).error().sys_errno, ENOENT);
  EXPECT_EQ(ask(std::span(datagram).first(10)).error().sys_errno, EINVAL);
  EXPECT_TRUE(log_.lines().empty());
}

TEST_F(KeyReleaseTest, GivesNothingThatTheOperatorDoesNotAllow) {
  EXPECT_EQ(ask(packet(rx_->spi, rx_->key.span()), false).error().sys_errno, EPERM);
  EXPECT_EQ(ask({}, false).error().sys_errno, EPERM);
  EXPECT_TRUE(log_.has("there is no --allow-key-export"));
}

TEST_F(KeyReleaseTest, SaysThatItWouldBeforeThereIsAPacket) {
  const auto found = ask({});
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->key.empty());
  EXPECT_TRUE(log_.has("takes the keys of connections that it captures"));
}

}  // namespace
}  // namespace psp::host
