// SPDX-License-Identifier: Apache-2.0
//
// The rules of the `psp` family. Refusals are tested by repairing one fault after the other: a
// request that is wrong in every way must be refused in the kernel's order.
#include <cerrno>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <psp/device/core.hh>

#include "core_fakes.hh"

namespace psp::device {

inline bool operator==(const Error& a, const Error& b) {
  return a.sys_errno == b.sys_errno && std::string_view(a.text) == b.text && a.field == b.field &&
         a.missing == b.missing;
}
inline void PrintTo(const Error& e, std::ostream* os) {
  *os << "errno " << e.sys_errno << " \"" << e.text << "\" field " << static_cast<int>(e.field)
      << (e.missing ? " missing" : "");
}

namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;
using testing::UnorderedElementsAre;

constexpr int kFd = 3;
constexpr std::uint32_t kIfindex = 7;
constexpr std::uint64_t kCookie = 1000;

Error error(int sys_errno, const char* text = "", Field field = Field::kNone) {
  return {sys_errno, text, field, false};
}
Error missing(Field field) { return {EINVAL, "", field, true}; }

class CoreTest : public testing::Test {
 protected:
  CoreTest() {
    core.set_compat(Compat::kNetNext);
    core.set_listener(&log);
    dev = core.add_device({0, kIfindex}, "eth0", VersionSet{0b0011}, driver).value();
    add_socket(kFd, kCookie);
    log.take();
  }

  void add_socket(int fd, std::uint64_t cookie, std::uint32_t ifindex = kIfindex) {
    sockets.sockets[fd] = {
        .info = {.cookie = cookie, .route_ifindex = ifindex, .established = true}};
  }
  AssocRequest request(int fd = kFd) const {
    AssocRequest r;
    r.fd = fd;
    r.version = Version::kAesGcm128;
    return r;
  }
  AssocRequest tx_request(int fd = kFd) const {
    AssocRequest r = request(fd);
    r.tx_key = AssocRequest::Keys{.spi = 0x8000'0005, .key = std::span(key).first(16)};
    return r;
  }
  const Association* assoc(std::uint64_t cookie = kCookie) const {
    return core.find_association(cookie);
  }

  std::array<std::uint8_t, 32> key{};
  FakeDriver driver;
  ModelSockets sockets;
  LogListener log;
  FakeNetdevs netdevs;
  Core core{sockets, &netdevs};
  std::uint16_t dev = 0;
};

// A fault that stands until it is repaired, and the refusal that it causes.
struct Fault {
  const char* name;
  Error refusal;
  std::function<void()> repair;
};

template <typename Operation>
void repair_one_by_one(const std::vector<Fault>& faults, Operation operation) {
  for (const Fault& fault : faults) {
    const auto result = operation();
    ASSERT_FALSE(result) << fault.name;
    EXPECT_EQ(result.error(), fault.refusal) << fault.name;
    fault.repair();
  }
  EXPECT_TRUE(operation()) << "all repaired";
}

TEST_F(CoreTest, RxAssocRefusesInTheKernelsOrder) {
  ASSERT_TRUE(core.rx_assoc(request()));  // leaves an association for kCookie
  add_socket(4, kCookie, /*ifindex=*/0);
  auto& socket = sockets.sockets[4];
  socket.tcp = socket.info.established = false;
  socket.becomes_closed = true;
  socket.attached = Association{};
  sockets.refuse_rx = error(EINVAL, "Socket has incompatible state");
  driver.fail_alloc = error(ENOSPC, "SPI space exhausted");
  AssocRequest r;
  const std::vector<Fault> faults{
      {"no sock-fd", missing(Field::kSockFd), [&] { r.fd = -1; }},
      {"no descriptor came", error(EBADF), [&] { r.fd = 99; }},
      {"bad descriptor", error(EBADF), [&] { r.fd = 4; }},
      {"not TCP", error(EOPNOTSUPP, "Unsupported socket family and type", Field::kSockFd),
       [&] { socket.tcp = true; }},
      {"no route, no dev-id", missing(Field::kDevId), [&] { r.dev_id = 99; }},
      {"no such device", error(ENODEV), [&] { socket.info.route_ifindex = kIfindex; }},
      {"other device", error(EINVAL, "Device id vs socket mismatch", Field::kDevId),
       [&] { r.dev_id = dev; }},
      {"no version", missing(Field::kVersion), [&] { r.version = Version::kAesGmac128; }},
      {"version not in cap", error(EOPNOTSUPP, "", Field::kVersion),
       [&] { r.version = Version::kAesGcm256; }},
      {"driver", error(ENOSPC, "SPI space exhausted"), [&] { driver.fail_alloc.reset(); }},
      {"not established", error(ENOTCONN, "Socket must be in established state", Field::kSockFd),
       [&] { socket.info.established = true; }},
      {"association left over", error(EBUSY, "Socket already has PSP state", Field::kSockFd),
       [&] { socket.info.cookie = 2000; }},
      {"closed meanwhile", error(ENOTCONN, "Socket must be in established state", Field::kSockFd),
       [&] { socket.becomes_closed = false; }},
      {"attached behind our back", error(EBUSY, "Socket already has PSP state", Field::kSockFd),
       [&] { socket.attached.reset(); }},
      {"other decrypt user", error(EINVAL, "Socket has incompatible state", Field::kSockFd),
       [&] { sockets.refuse_rx.reset(); }},
  };
  repair_one_by_one(faults, [&] { return core.rx_assoc(r); });
  EXPECT_EQ(core.association_count(), 2u);
}

TEST_F(CoreTest, TxAssocRefusesInTheKernelsOrder) {
  const auto other = core.add_device({0, 8}, "eth1", VersionSet::all(), driver).value();
  AssocRequest other_rx = request();
  ASSERT_TRUE(core.rx_assoc(other_rx));
  add_socket(4, 2000, 0);
  auto& socket = sockets.sockets[4];
  socket.tcp = socket.info.established = false;
  socket.becomes_closed = socket.queued_clear = true;
  driver.fail_tx = error(EIO, "driver says no");
  AssocRequest r;
  AssocRequest::Keys keys;
  const auto set_key = [&](std::size_t size) {
    keys.key = std::span(key).first(size);
    r.tx_key = keys;
  };
  const auto set_spi = [&](std::uint32_t spi) {
    keys.spi = spi;
    r.tx_key = keys;
  };
  const std::vector<Fault> faults{
      {"no sock-fd", missing(Field::kSockFd), [&] { r.fd = -1; }},
      {"no descriptor came", error(EBADF), [&] { r.fd = 4; }},
      {"not TCP", error(EOPNOTSUPP, "Unsupported socket family and type", Field::kSockFd),
       [&] { socket.tcp = true; }},
      {"no route, no dev-id", missing(Field::kDevId), [&] { r.dev_id = 99; }},
      {"no such device", error(ENODEV), [&] { socket.info.route_ifindex = kIfindex; }},
      {"other device than the route's",
       error(EINVAL, "Device id vs socket mismatch", Field::kDevId), [&] { r.dev_id = dev; }},
      {"no version", missing(Field::kVersion), [&] { r.version = Version::kAesGmac128; }},
      {"no tx-key", missing(Field::kTxKey), [&] { r.tx_key = keys; }},
      {"version not in cap", error(EOPNOTSUPP, "", Field::kVersion),
       [&] { r.version = Version::kAesGcm256; }},
      {"no key", missing(Field::kKey), [&] { set_key(16); }},
      {"no spi", missing(Field::kSpi), [&] { set_spi(0x8000'0000); }},
      {"key of the other version", error(EINVAL, "incorrect key length", Field::kKey),
       [&] { set_key(32); }},
      {"reserved spi, the attribute is the kernel's",
       error(EINVAL, "invalid SPI: lower 31b must be non-zero", Field::kKey), [&] { set_spi(5); }},
      {"not established", error(ENOTCONN, "Socket must be in established state"),
       [&] { socket.info.established = true; }},
      {"no Rx key", error(EINVAL, "Socket has no Rx key"),
       [&] {
         add_socket(5, 2000, 8);
         AssocRequest rx = request(5);
         rx.dev_id = other;
         ASSERT_TRUE(core.rx_assoc(rx));
       }},
      {"Rx key elsewhere", error(EINVAL, "Rx key from different device"),
       [&] { socket.info.cookie = kCookie; }},
      {"other version", error(EINVAL, "PSP version mismatch with existing state"),
       [&] {
         r.version = Version::kAesGcm128;
         set_key(16);
       }},
      {"driver", error(EIO, "driver says no"), [&] { driver.fail_tx.reset(); }},
      {"closed meanwhile", error(ENOTCONN, "Socket must be in established state"),
       [&] { socket.becomes_closed = false; }},
      {"clear text queued",
       error(EBUSY, "Socket has incompatible segments already in the recv queue"),
       [&] { socket.queued_clear = false; }},
  };
  repair_one_by_one(faults, [&] { return core.tx_assoc(r); });
  const auto again = core.tx_assoc(r);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error(), error(EBUSY, "Tx key already set"));
  EXPECT_EQ(driver.tx_keys.size(), 1u) << "refused requests leave no key in the driver";
  EXPECT_EQ(driver.bad_deletes, 0);
}

TEST_F(CoreTest, RxAssocAnswersAndAttaches) {
  driver.next_spi = 0x8000'0007;
  const auto reply = core.rx_assoc(request());
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->dev_id, dev);
  EXPECT_EQ(reply->rx_key.spi.value, 0x8000'0007u);
  EXPECT_EQ(reply->rx_key.key.size(), 16u);
  const auto& attached = sockets.sockets[kFd].attached;
  ASSERT_TRUE(attached);
  EXPECT_EQ(attached->cookie, kCookie);
  EXPECT_EQ(attached->dev_id, dev);
  EXPECT_EQ(attached->rx_spi.value, 0x8000'0007u);
  EXPECT_EQ(attached->version, Version::kAesGcm128);
  EXPECT_FALSE(attached->tx_spi);
  EXPECT_FALSE(attached->stale);
  ASSERT_NE(assoc(), nullptr);
  EXPECT_EQ(assoc()->rx_spi, attached->rx_spi);
}

TEST_F(CoreTest, RefusedRxAssocBurnsAnSpi) {
  sockets.sockets[kFd].info.established = false;
  EXPECT_FALSE(core.rx_assoc(request()));
  sockets.sockets[kFd].info.established = true;
  EXPECT_EQ(core.rx_assoc(request())->rx_key.spi.value, 2u);
  EXPECT_FALSE(core.rx_assoc(request()));
  EXPECT_EQ(driver.next_spi, 4u);
}

TEST_F(CoreTest, RefusedRxAssocLeavesNothing) {
  sockets.refuse_rx = error(EINVAL, "Socket has incompatible state");
  EXPECT_FALSE(core.rx_assoc(request()));
  EXPECT_EQ(core.association_count(), 0u);
  EXPECT_EQ(assoc(), nullptr);
}

TEST_F(CoreTest, AUserCannotHaveAllAssociationsAndRootCan) {
  core.set_limits({.all = 5, .of_a_user = 2});
  const auto ask = [this](int fd, std::uint32_t uid) {
    add_socket(fd, static_cast<std::uint64_t>(fd));
    sockets.sockets[fd].info.uid = uid;
    const auto done = core.rx_assoc(request(fd));
    return done ? 0 : done.error().sys_errno;
  };
  EXPECT_EQ(ask(11, 1000), 0);
  EXPECT_EQ(ask(12, 1000), 0);
  EXPECT_EQ(ask(13, 1000), EDQUOT);
  EXPECT_EQ(ask(14, 1001), 0) << "another user";
  EXPECT_EQ(ask(15, 0), 0);
  EXPECT_EQ(ask(16, 0), 0);
  EXPECT_EQ(ask(17, 0), ENOSPC) << "there is an end for root, too";
  core.release(11);
  EXPECT_EQ(ask(13, 1000), 0) << "room again";
}

TEST_F(CoreTest, ARefusedSocketCountsForNobody) {
  core.set_limits({.all = 1, .of_a_user = 1});
  sockets.sockets[kFd].info.uid = 1000;
  sockets.refuse_rx = error(EINVAL, "Socket has incompatible state");
  EXPECT_EQ(core.rx_assoc(request()).error().sys_errno, EINVAL);
  EXPECT_EQ(core.find_association(kCookie), nullptr);
  sockets.refuse_rx.reset();
  EXPECT_TRUE(core.rx_assoc(request()));
}

TEST_F(CoreTest, AssocDoesNotLookAtEnabledVersions) {
  EXPECT_EQ(core.find_device(dev).value()->config.versions_ena.bits, 0u);
  EXPECT_TRUE(core.rx_assoc(request()));
  EXPECT_TRUE(core.tx_assoc(tx_request()));
}

TEST_F(CoreTest, DevIdStandsInForAMissingRoute) {
  sockets.sockets[kFd].info.route_ifindex = 99;  // a netdev without device
  AssocRequest r = request();
  r.dev_id = dev;
  EXPECT_TRUE(core.rx_assoc(r));
  r.dev_id = 0x10000 + dev;  // not cut to 16 bits
  EXPECT_EQ(core.rx_assoc(r).error(), error(ENODEV));
}

TEST_F(CoreTest, TxAssocGivesTheDriverKeyAndSpiInHostOrder) {
  key.fill(0x42);
  ASSERT_TRUE(core.rx_assoc(request()));
  ASSERT_TRUE(core.tx_assoc(tx_request()));
  ASSERT_EQ(driver.added.size(), 1u);
  EXPECT_EQ(driver.added[0].spi.value, 0x8000'0005u);
  EXPECT_EQ(driver.added[0].version, Version::kAesGcm128);
  EXPECT_EQ(driver.added[0].key, std::vector<std::uint8_t>(16, 0x42));
  for (const Association* a :
       std::initializer_list<const Association*>{assoc(), &*sockets.sockets[kFd].attached}) {
    ASSERT_TRUE(a->tx_spi);
    EXPECT_EQ(a->tx_spi->value, 0x8000'0005u);
    EXPECT_EQ(a->tx_handle, 1u);
  }
}

TEST_F(CoreTest, RefusedTxAssocCanBeRetried) {
  ASSERT_TRUE(core.rx_assoc(request()));
  sockets.sockets[kFd].queued_clear = true;
  EXPECT_FALSE(core.tx_assoc(tx_request()));
  EXPECT_THAT(driver.tx_keys, IsEmpty());
  EXPECT_FALSE(assoc()->tx_spi);
  EXPECT_EQ(assoc()->tx_handle, 0u);
  sockets.sockets[kFd].queued_clear = false;
  EXPECT_TRUE(core.tx_assoc(tx_request()));
  EXPECT_THAT(driver.tx_keys, ElementsAre(2u));
}

TEST_F(CoreTest, OneTxKeyCanServeSeveralSockets) {
  add_socket(4, 2000);
  for (int fd : {kFd, 4}) {
    ASSERT_TRUE(core.rx_assoc(request(fd)));
    EXPECT_TRUE(core.tx_assoc(tx_request(fd)));
  }
  EXPECT_EQ(driver.tx_keys.size(), 2u);
}

TEST_F(CoreTest, ReleaseDeletesTheTxKeyOnce) {
  ASSERT_TRUE(core.rx_assoc(request()));
  ASSERT_TRUE(core.tx_assoc(tx_request()));
  core.release(kCookie);
  core.release(kCookie);
  core.release(4711);
  EXPECT_THAT(driver.tx_keys, IsEmpty());
  EXPECT_EQ(driver.bad_deletes, 0);
  EXPECT_EQ(assoc(), nullptr);
  EXPECT_EQ(core.association_count(), 0u);
  EXPECT_EQ(core.tx_assoc(tx_request()).error(), error(EINVAL, "Socket has no Rx key"));
}

TEST_F(CoreTest, ReleaseOfAnRxOnlyAssociationDeletesNoKey) {
  ASSERT_TRUE(core.rx_assoc(request()));
  core.release(kCookie);
  EXPECT_EQ(driver.bad_deletes, 0);
}

TEST_F(CoreTest, AssociationSurvivesOneRotationAndDiesAtTheSecond) {
  ASSERT_TRUE(core.rx_assoc(request()));
  add_socket(4, 2000);
  ASSERT_TRUE(core.key_rotate(dev));
  ASSERT_TRUE(core.rx_assoc(request(4)));
  EXPECT_FALSE(assoc()->stale);
  EXPECT_EQ(core.stats(dev)->stale_events, 0u);
  log.take();

  ASSERT_TRUE(core.key_rotate(dev));
  EXPECT_TRUE(assoc()->stale);
  EXPECT_EQ(assoc()->generation, 0u);
  EXPECT_FALSE(assoc(2000)->stale);
  EXPECT_EQ(assoc(2000)->generation, 1u);
  EXPECT_EQ(core.stats(dev)->stale_events, 1u);
  EXPECT_THAT(log.take(), ElementsAre("stale 1000", "rotate 1"));

  ASSERT_TRUE(core.key_rotate(dev));  // the first one is not counted again
  EXPECT_TRUE(assoc(2000)->stale);
  EXPECT_EQ(core.stats(dev)->stale_events, 2u);
  EXPECT_EQ(core.stats(dev)->key_rotations, 3u);
  for (std::uint64_t cookie : {kCookie, std::uint64_t{2000}}) core.release(cookie);
  ASSERT_TRUE(core.key_rotate(dev));
  EXPECT_EQ(core.stats(dev)->stale_events, 2u);
}

TEST_F(CoreTest, ReleasedAssociationsDoNotGoStale) {
  ASSERT_TRUE(core.rx_assoc(request()));
  ASSERT_TRUE(core.key_rotate(dev));
  core.release(kCookie);
  ASSERT_TRUE(core.key_rotate(dev));
  EXPECT_EQ(core.stats(dev)->stale_events, 0u);
}

TEST_F(CoreTest, ConnectionsThatAreOverLoseNothingByARotation) {
  ASSERT_TRUE(core.rx_assoc(request()));
  core.end(kCookie);
  core.end(kCookie + 1);  // nobody's
  log.take();
  ASSERT_TRUE(core.key_rotate(dev));
  ASSERT_TRUE(core.key_rotate(dev));
  EXPECT_TRUE(assoc()->stale);
  EXPECT_EQ(core.stats(dev)->stale_events, 0u);
  EXPECT_THAT(log.take(), ElementsAre("rotate 1", "rotate 1"));
}

TEST_F(CoreTest, RotationLeavesOtherDevicesAlone) {
  const auto other = core.add_device({0, 8}, "eth1", VersionSet::all(), driver).value();
  ASSERT_TRUE(core.rx_assoc(request()));
  ASSERT_TRUE(core.key_rotate(other));
  ASSERT_TRUE(core.key_rotate(other));
  EXPECT_FALSE(assoc()->stale);
  EXPECT_EQ(core.stats(dev)->key_rotations, 0u);
  EXPECT_EQ(core.stats(other)->key_rotations, 2u);
}

TEST_F(CoreTest, DroppedKeysAreGoneForGood) {
  ASSERT_TRUE(core.rx_assoc(request()));
  ASSERT_TRUE(core.tx_assoc(tx_request()));
  add_socket(4, 2000);
  ASSERT_TRUE(core.rx_assoc(request(4)));
  ASSERT_TRUE(core.drop_keys());
  EXPECT_TRUE(driver.tx_keys.empty());
  EXPECT_EQ(driver.proposals.size(), 2u) << "the previous device key is gone too";
  EXPECT_TRUE(assoc()->stale && assoc(2000)->stale);
  AssocRequest late = tx_request();
  late.fd = 4;
  EXPECT_EQ(core.tx_assoc(late).error(), error(EINVAL, "Socket has no Rx key"))
      << "another machine may get the same Tx key";
  for (std::uint64_t cookie : {kCookie, std::uint64_t{2000}}) core.release(cookie);
  EXPECT_EQ(driver.bad_deletes, 0);
  add_socket(5, 3000);
  EXPECT_TRUE(core.rx_assoc(request(5)));
  driver.fail_rotate = error(EIO, "no entropy");
  EXPECT_EQ(core.drop_keys().error(), error(EIO, "no entropy"));
}

TEST_F(CoreTest, StaleAssociationStillTakesATxKey) {
  // Transmission does not depend on the local device key.
  ASSERT_TRUE(core.rx_assoc(request()));
  ASSERT_TRUE(core.key_rotate(dev));
  ASSERT_TRUE(core.key_rotate(dev));
  EXPECT_TRUE(core.tx_assoc(tx_request()));
  EXPECT_TRUE(assoc()->stale);
}

TEST_F(CoreTest, GenerationHasSevenBits) {
  for (int i = 0; i < 130; ++i) ASSERT_TRUE(core.key_rotate(dev));
  ASSERT_EQ(driver.proposals.size(), 130u);
  for (int i = 0; i < 130; ++i) EXPECT_EQ(driver.proposals[i], (i + 1) % 128);
}

TEST_F(CoreTest, DriverMayChooseTheGeneration) {
  driver.answer_generation = 5;
  ASSERT_TRUE(core.key_rotate(dev));
  driver.answer_generation.reset();
  ASSERT_TRUE(core.key_rotate(dev));
  EXPECT_THAT(driver.proposals, ElementsAre(1, 6));
  driver.answer_generation = 0xff;  // out of contract: cut to what a packet can carry
  EXPECT_EQ(core.key_rotate(dev).value()->generation, 0x7f);
}

TEST_F(CoreTest, FailedRotationChangesNothingButTheNextProposal) {
  ASSERT_TRUE(core.rx_assoc(request()));
  ASSERT_TRUE(core.key_rotate(dev));
  log.take();
  driver.fail_rotate = error(EIO, "no entropy");
  EXPECT_EQ(core.key_rotate(dev).error(), error(EIO, "no entropy"));
  EXPECT_THAT(log.take(), IsEmpty());
  EXPECT_FALSE(assoc()->stale);
  EXPECT_EQ(core.stats(dev)->key_rotations, 1u);
  driver.fail_rotate.reset();
  ASSERT_TRUE(core.key_rotate(dev));
  EXPECT_THAT(driver.proposals, ElementsAre(1, 2, 3));
  EXPECT_TRUE(assoc()->stale);
}

TEST_F(CoreTest, DevSetAppliesChangesAndAlwaysNotifies) {
  ASSERT_TRUE(core.set_versions(dev, VersionSet{1}));
  ASSERT_TRUE(core.set_versions(dev, VersionSet{1}));
  ASSERT_TRUE(core.set_versions(dev, VersionSet{0}));
  ASSERT_EQ(driver.configs.size(), 2u) << "the driver hears of changes only";
  EXPECT_EQ(driver.configs[0].first.versions_ena.bits, 0u);
  EXPECT_EQ(driver.configs[0].second.versions_ena.bits, 1u);
  EXPECT_EQ(driver.configs[1].first.versions_ena.bits, 1u);
  EXPECT_EQ(driver.configs[1].second.versions_ena.bits, 0u);
  EXPECT_THAT(log.take(), ElementsAre("change 1 ena 1", "change 1 ena 1", "change 1 ena 0"));
}

TEST_F(CoreTest, DevSetRefusals) {
  EXPECT_EQ(core.set_versions(99, VersionSet{1}).error(), error(ENODEV));
  EXPECT_EQ(core.set_versions(99, std::nullopt).error(), error(ENODEV));
  EXPECT_EQ(core.set_versions(dev, std::nullopt).error(), error(EINVAL, "No settings present"));
  EXPECT_EQ(core.set_versions(dev, VersionSet{0b0101}).error(),
            error(EINVAL, "Requested PSP versions not supported by the device"));
  driver.fail_config = error(EBUSY, "not now");
  EXPECT_EQ(core.set_versions(dev, VersionSet{1}).error(), error(EBUSY, "not now"));
  EXPECT_EQ(core.find_device(dev).value()->config.versions_ena.bits, 0u)
      << "stored on success only";
  EXPECT_THAT(log.take(), IsEmpty());
}

TEST_F(CoreTest, UnknownDevices) {
  for (const std::uint32_t id : {0u, 2u, 65536u + dev, 0xffff'ffffu}) {
    EXPECT_EQ(core.find_device(id).error(), error(ENODEV)) << id;
    EXPECT_EQ(core.key_rotate(id).error(), error(ENODEV)) << id;
    EXPECT_EQ(core.stats(id).error(), error(ENODEV)) << id;
  }
  core.remove_device(99);
  EXPECT_THAT(log.take(), IsEmpty());
}

TEST_F(CoreTest, StatsAreTheCoresAndTheDrivers) {
  driver.counters = {1, 2, 3, 4, 5, 6, 7, 8};
  ASSERT_TRUE(core.key_rotate(dev));
  const auto stats = core.stats(dev);
  ASSERT_TRUE(stats);
  EXPECT_EQ(stats->key_rotations, 1u);
  EXPECT_EQ(stats->driver.rx_packets, 1u);
  EXPECT_EQ(stats->driver.tx_error, 8u);
  driver.fail_stats = error(EOPNOTSUPP);
  EXPECT_EQ(core.stats(dev).error(), error(EOPNOTSUPP));
}

TEST_F(CoreTest, AddDeviceRefusals) {
  EXPECT_EQ(core.add_device({0, 8}, "x", VersionSet{0}, driver).error(), error(EINVAL));
  EXPECT_EQ(core.add_device({0, 8}, "x", VersionSet{0x10}, driver).error(), error(EINVAL));
  EXPECT_EQ(core.add_device({0, kIfindex}, "x", VersionSet{1}, driver).error(), error(EEXIST));
  EXPECT_THAT(log.take(), IsEmpty());
}

TEST_F(CoreTest, DeviceStartsWithReceptionOff) {
  const Device& device = *core.find_device(dev).value();
  EXPECT_EQ(device.config.versions_ena.bits, 0u);
  EXPECT_EQ(device.versions_cap.bits, 0b0011u);
  EXPECT_EQ(device.generation, 0u);
  EXPECT_EQ(device.netdev, (NetdevKey{0, kIfindex}));
  EXPECT_EQ(device.ifname, "eth0");
}

TEST_F(CoreTest, IdsAreCyclicAndNotReusedWhileAssociationsRemain) {
  ASSERT_TRUE(core.rx_assoc(request()));  // holds on to id 1
  core.remove_device(dev);
  std::uint16_t last = dev;
  bool wrapped = false;
  for (int i = 0; i < 65536; ++i) {
    const auto id = core.add_device({0, kIfindex}, "eth0", VersionSet{1}, driver).value();
    ASSERT_NE(id, 0u);
    ASSERT_NE(id, dev) << "an association still carries this id";
    if (id < last) wrapped = true;
    last = id;
    core.remove_device(id);
  }
  EXPECT_TRUE(wrapped);
  EXPECT_EQ(core.find_device(dev).error(), error(ENODEV));
  core.release(kCookie);
  std::set<std::uint16_t> seen;
  for (int i = 0; i < 65535; ++i) {
    const auto id = core.add_device({0, kIfindex}, "eth0", VersionSet{1}, driver).value();
    seen.insert(id);
    core.remove_device(id);
  }
  EXPECT_TRUE(seen.contains(dev));
  EXPECT_EQ(seen.size(), 65535u);
}

TEST_F(CoreTest, IdsBeginWhereTheyAreToldTo) {
  core.remove_device(dev);
  core.set_first_id(0xfffe);
  std::vector<std::uint16_t> ids;
  for (int i = 0; i < 3; ++i) {
    ids.push_back(core.add_device({0, kIfindex}, "eth0", VersionSet{1}, driver).value());
    core.remove_device(ids.back());
  }
  EXPECT_EQ(ids, (std::vector<std::uint16_t>{0xfffe, 0xffff, 0xfffe}));
}

TEST_F(CoreTest, TheDeviceOfASocketIsThatOfItsRouteUnlessItIsSecuredAlready) {
  EXPECT_EQ(core.device_of(kFd).value(), dev);
  sockets.sockets[kFd].info.route_ifindex = kIfindex + 1000;
  EXPECT_EQ(core.device_of(kFd).error(), error(ENODEV));
  sockets.sockets[kFd].info.route_ifindex = kIfindex;
  ASSERT_TRUE(core.rx_assoc(request()));
  sockets.sockets[kFd].info.route_ifindex = 0;
  EXPECT_EQ(core.device_of(kFd).value(), dev);
  EXPECT_EQ(core.device_of(-1).error().sys_errno, EBADF);
}

TEST_F(CoreTest, AllIdsInUseIsAnError) {
  for (std::uint32_t id = 1; id <= 65535; ++id) {  // a removed device keeps its id by association
    if (id != dev) {
      const auto added = core.add_device({0, kIfindex}, "eth0", VersionSet{1}, driver);
      ASSERT_EQ(added.value(), id);
    }
    sockets.sockets[kFd].info.cookie = kCookie + id;
    sockets.sockets[kFd].attached.reset();
    ASSERT_TRUE(core.rx_assoc(request()));
    core.remove_device(static_cast<std::uint16_t>(id));
  }
  EXPECT_EQ(core.add_device({0, kIfindex}, "eth0", VersionSet{1}, driver).error(), error(ENOSPC));
  core.release(kCookie + 100);
  const auto id = core.add_device({0, kIfindex}, "eth0", VersionSet{1}, driver);
  ASSERT_TRUE(id);
  EXPECT_EQ(*id, 100u);
}

TEST_F(CoreTest, RemovedDeviceKeepsItsSocketsBlocked) {
  ASSERT_TRUE(core.rx_assoc(request()));
  ASSERT_TRUE(core.tx_assoc(tx_request()));
  add_socket(4, 2000);
  ASSERT_TRUE(core.rx_assoc(request(4)));
  core.remove_device(dev);
  EXPECT_THAT(driver.tx_keys, IsEmpty());
  EXPECT_EQ(driver.bad_deletes, 0);
  EXPECT_THAT(log.take(), ElementsAre("del 1"));
  EXPECT_THAT(core.devices(), IsEmpty());
  ASSERT_NE(assoc(), nullptr);
  EXPECT_TRUE(assoc()->tx_spi) << "still a socket with a Tx key";
  EXPECT_EQ(assoc()->tx_handle, 0u);
  EXPECT_EQ(core.key_rotate(dev).error(), error(ENODEV));

  const auto next = core.add_device({0, kIfindex}, "eth0", VersionSet::all(), driver).value();
  EXPECT_NE(next, dev);
  EXPECT_EQ(core.rx_assoc(request(4)).error(),
            error(EBUSY, "Socket already has PSP state", Field::kSockFd));
  EXPECT_EQ(core.tx_assoc(tx_request(4)).error(), error(EINVAL, "Rx key from different device"));
  core.release(kCookie);
  core.release(2000);
  EXPECT_EQ(driver.bad_deletes, 0);
  EXPECT_EQ(core.association_count(), 0u);
}

TEST_F(CoreTest, ListsDevicesById) {
  const auto second = core.add_device({0, 8}, "eth1", VersionSet{1}, driver).value();
  const auto third = core.add_device({0, 9}, "eth2", VersionSet{1}, driver).value();
  core.remove_device(second);
  std::vector<std::uint16_t> ids;
  for (const Device* device : core.devices()) ids.push_back(device->id);
  EXPECT_THAT(ids, ElementsAre(dev, third));
  EXPECT_THAT(log.take(), ElementsAre("add 2", "add 3", "del 2"));
}

TEST_F(CoreTest, VisitsEveryAssociation) {
  for (int i = 0; i < 5; ++i) {
    add_socket(10 + i, 100 + i);
    ASSERT_TRUE(core.rx_assoc(request(10 + i)));
    ASSERT_TRUE(core.key_rotate(dev));
  }
  std::vector<std::uint64_t> cookies;
  core.for_each_association([&](const Association& a) { cookies.push_back(a.cookie); });
  EXPECT_THAT(cookies, UnorderedElementsAre(100, 101, 102, 103, 104));
}

TEST_F(CoreTest, WorksWithoutAListener) {
  core.set_listener(nullptr);
  EXPECT_TRUE(core.rx_assoc(request()));
  EXPECT_TRUE(core.key_rotate(dev));
  EXPECT_TRUE(core.key_rotate(dev));
  EXPECT_TRUE(core.set_versions(dev, VersionSet{1}));
  core.remove_device(dev);
  EXPECT_THAT(log.take(), IsEmpty());
}

// ---- namespaces: the device is in namespace 0, associated netdevs are in 101 and so on ----------

constexpr std::uint64_t kMain = 0, kPod = 101, kOther = 102, kStranger = 109;

TEST_F(CoreTest, DevicesAreVisibleWhereTheyHaveANetdev) {
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 50, 1));
  for (const std::uint64_t netns : {kMain, kPod}) {
    EXPECT_TRUE(core.find_device(dev, netns)) << netns;
    EXPECT_TRUE(core.stats(dev, netns)) << netns;
    EXPECT_EQ(core.devices(netns).size(), 1u) << netns;
  }
  EXPECT_EQ(core.find_device(dev, kStranger).error(), error(ENOENT));
  EXPECT_EQ(core.stats(dev, kStranger).error(), error(ENOENT));
  EXPECT_THAT(core.devices(kStranger), IsEmpty());
  EXPECT_EQ(core.find_device(99, kStranger).error(), error(ENODEV)) << "unknown comes first";
  EXPECT_TRUE(core.find_device(dev)) << "pspd itself sees all";
}

TEST_F(CoreTest, OnlyTheMainNamespaceChangesADevice) {
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 50, 1));
  log.take();
  for (const std::uint64_t netns : {kPod, kStranger}) {
    EXPECT_EQ(core.set_versions(dev, VersionSet{1}, netns).error(), error(ENOENT)) << netns;
    EXPECT_EQ(core.set_versions(dev, std::nullopt, netns).error(), error(ENOENT)) << netns;
    EXPECT_EQ(core.key_rotate(dev, netns).error(), error(ENOENT)) << netns;
    EXPECT_EQ(core.key_rotate(99, netns).error(), error(ENODEV)) << netns;
  }
  EXPECT_THAT(log.take(), IsEmpty());
  EXPECT_TRUE(core.set_versions(dev, VersionSet{1}, kMain));
  EXPECT_TRUE(core.key_rotate(dev, kMain));
}

TEST_F(CoreTest, DevAssocRefusesInTheKernelsOrder) {
  core.add_device({0, 8}, "eth1", VersionSet{1}, driver).value();
  for (std::uint32_t i = 0; i < kAssociatedMax - 1; ++i)
    ASSERT_TRUE(core.dev_assoc(kMain, dev, 1000 + i, 1));
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 999, 2));
  netdevs.absent.insert({kPod, 50});
  netdevs.refuse_attach = error(ENOMEM, "no TAP");
  std::uint64_t caller = kStranger;
  std::uint32_t id = 99;
  std::optional<std::uint32_t> ifindex;
  std::optional<std::int32_t> nsid;
  const std::vector<Fault> faults{
      {"no such device", error(ENODEV), [&] { id = dev; }},
      {"not visible", error(ENOENT), [&] { caller = kPod; }},
      {"128 already", error(ENOSPC, "Maximum number of associated devices reached"),
       [&] { ASSERT_TRUE(core.dev_disassoc(kMain, dev, 1000, 1)); }},
      {"no ifindex", missing(Field::kIfindex),
       [&] {
         ifindex = 8;
         nsid = 77;
       }},
      {"nsid by a caller elsewhere", error(EPERM, "", Field::kNsid), [&] { caller = kMain; }},
      {"no such nsid", error(EINVAL, "", Field::kNsid), [&] { nsid.reset(); }},
      {"has a device of its own", error(EBUSY, "Device already associated with a PSP device"),
       [&] {
         ifindex = 1001;
         nsid = 1;
       }},
      {"is associated", error(EBUSY, "Device already associated with a PSP device"),
       [&] { ifindex = 50; }},
      {"no such netdev", error(ENODEV, "", Field::kIfindex), [&] { ifindex = 51; }},
      {"cannot be attached", error(ENOMEM, "no TAP"), [&] { netdevs.refuse_attach.reset(); }},
  };
  repair_one_by_one(faults, [&] { return core.dev_assoc(caller, id, ifindex, nsid); });
  EXPECT_EQ(core.find_device(dev).value()->associated.back(), (NetdevKey{kPod, 51}));
  EXPECT_EQ(core.find_device(dev).value()->associated.size(), kAssociatedMax);
  EXPECT_EQ(netdevs.attached.size(), kAssociatedMax);
  EXPECT_EQ(netdevs.mistakes, 0);
  EXPECT_EQ(netdevs.asked_in.back(), kMain) << "nsids are numbers of the caller's namespace";
}

TEST_F(CoreTest, WhatMemoryRanOutInIsNotHalfDone) {
  netdevs.out_of_memory = sockets.out_of_memory = true;
  EXPECT_THROW((void)core.dev_assoc(kMain, dev, 50, 1), std::bad_alloc);
  EXPECT_THROW((void)core.rx_assoc(request()), std::bad_alloc);
  EXPECT_EQ(core.association_count(), 0u);
  netdevs.out_of_memory = sockets.out_of_memory = false;
  EXPECT_TRUE(core.dev_assoc(kMain, dev, 50, 1));
  EXPECT_TRUE(core.rx_assoc(request()));
  sockets.out_of_memory = true;
  EXPECT_THROW((void)core.tx_assoc(tx_request()), std::bad_alloc);
  EXPECT_THAT(driver.tx_keys, IsEmpty());
  sockets.out_of_memory = false;
  EXPECT_TRUE(core.tx_assoc(tx_request()));
  EXPECT_EQ(driver.tx_keys.size(), 1u);
  EXPECT_EQ(driver.bad_deletes + netdevs.mistakes, 0);
}

TEST_F(CoreTest, DevDisassocRefusesInTheKernelsOrder) {
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 50, 1));
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 60, 2));
  std::uint64_t caller = kStranger;
  std::uint32_t id = 99;
  std::optional<std::uint32_t> ifindex;
  std::optional<std::int32_t> nsid;
  const std::vector<Fault> faults{
      {"no such device", error(ENODEV), [&] { id = dev; }},
      {"not visible", error(ENOENT), [&] { caller = kPod; }},
      {"no ifindex", missing(Field::kIfindex),
       [&] {
         ifindex = 60;
         nsid = 77;
       }},
      {"nsid by a caller elsewhere", error(EPERM, "", Field::kNsid), [&] { caller = kMain; }},
      {"no such nsid", error(EINVAL, "", Field::kNsid), [&] { nsid = 1; }},
      {"that ifindex, other namespace", error(ENODEV, "", Field::kIfindex), [&] { ifindex = 50; }},
  };
  repair_one_by_one(faults, [&] { return core.dev_disassoc(caller, id, ifindex, nsid); });
  EXPECT_EQ(core.dev_disassoc(caller, id, ifindex, nsid).error(),
            error(ENODEV, "", Field::kIfindex))
      << "twice";
  EXPECT_EQ(core.dev_disassoc(kMain, dev, kIfindex, {}).error(), error(ENODEV, "", Field::kIfindex))
      << "the main netdev is no associated one";
  EXPECT_THAT(core.find_device(dev).value()->associated, ElementsAre(NetdevKey{kOther, 60}));
  EXPECT_EQ(netdevs.mistakes, 0);
}

TEST_F(CoreTest, WithoutNetdevOpsThereAreNoAssociatedNetdevs) {
  Core alone(sockets);
  const auto id = alone.add_device({0, 7}, "eth0", VersionSet{1}, driver).value();
  EXPECT_EQ(alone.dev_assoc(0, id, 50, 1).error(), error(EOPNOTSUPP));
  EXPECT_EQ(alone.dev_disassoc(0, id, 50, 1).error(), error(EOPNOTSUPP));
  EXPECT_EQ(alone.nsid_of(0, 1), -1);
}

TEST_F(CoreTest, WithoutNsidTheCallersNamespaceIsMeant) {
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 50, {}));
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 50, 1));
  ASSERT_TRUE(core.dev_assoc(kPod, dev, 51, {}));
  EXPECT_THAT(core.find_device(dev).value()->associated,
              ElementsAre(NetdevKey{kMain, 50}, NetdevKey{kPod, 50}, NetdevKey{kPod, 51}));
}

TEST_F(CoreTest, TheLastNetdevTakesTheDeviceAwayFromItsNamespace) {
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 50, 1));
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 51, 1));
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 60, {}));
  EXPECT_THAT(log.take(), ElementsAre("change 1 ena 0 with 1", "change 1 ena 0 with 2",
                                      "change 1 ena 0 with 3"));
  ASSERT_TRUE(core.dev_disassoc(kPod, dev, 50, {}));
  EXPECT_THAT(log.take(), ElementsAre("change 1 ena 0 with 2"));
  core.netdev_gone({kPod, 51});
  EXPECT_THAT(log.take(), ElementsAre("change 1 ena 0 with 1", "left 1 in 101"));
  EXPECT_EQ(core.find_device(dev, kPod).error(), error(ENOENT));
  ASSERT_TRUE(core.dev_disassoc(kMain, dev, 60, {}));
  EXPECT_THAT(log.take(), ElementsAre("change 1 ena 0")) << "the main namespace never loses it";
  EXPECT_THAT(netdevs.attached, IsEmpty());
  EXPECT_EQ(netdevs.mistakes, 0);
}

TEST_F(CoreTest, UpToLinux73AllAreToldBeforeANetdevLeaves) {
  core.set_compat(Compat::kLinux72);
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 50, 1));
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 60, {}));
  log.take();
  ASSERT_TRUE(core.dev_disassoc(kPod, dev, 50, {}));
  EXPECT_THAT(log.take(), ElementsAre("change 1 ena 0 with 2"));
  EXPECT_EQ(core.find_device(dev, kPod).error(), error(ENOENT));
  core.netdev_gone({kMain, 60});
  EXPECT_THAT(log.take(), ElementsAre("change 1 ena 0 with 1"));
  EXPECT_THAT(driver.unused, ElementsAre(kPod));
  EXPECT_THAT(netdevs.attached, IsEmpty());
  EXPECT_EQ(netdevs.mistakes, 0);
}

TEST_F(CoreTest, NetdevGoneIsForAssociatedNetdevsOnly) {
  core.netdev_gone({kMain, kIfindex});
  core.netdev_gone({kPod, 50});
  EXPECT_TRUE(core.find_device(dev));
  EXPECT_THAT(log.take(), IsEmpty());
  EXPECT_EQ(netdevs.mistakes, 0);
}

TEST_F(CoreTest, RemovedDeviceLetsItsNetdevsGo) {
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 50, 1));
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 60, 2));
  log.take();
  core.remove_device(dev);
  EXPECT_THAT(log.take(), ElementsAre("del 1"));
  EXPECT_THAT(netdevs.attached, IsEmpty());
  EXPECT_EQ(netdevs.mistakes, 0);
  const auto next = core.add_device({0, 9}, "eth2", VersionSet{1}, driver).value();
  EXPECT_TRUE(core.dev_assoc(kMain, next, 50, 1)) << "free for another device";
}

TEST_F(CoreTest, TheSameIfindexInTwoNamespacesIsTwoNetdevs) {
  const auto other = core.add_device({kPod, kIfindex}, "eth0", VersionSet::all(), driver).value();
  sockets.sockets[kFd].info.netns = kPod;
  const auto reply = core.rx_assoc(request());
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->dev_id, other);
  add_socket(4, 2000);
  EXPECT_EQ(core.rx_assoc(request(4))->dev_id, dev);
}

TEST_F(CoreTest, ASocketBehindAnAssociatedNetdevUsesTheDevice) {
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 50, 1));
  sockets.sockets[kFd].info.netns = kPod;
  sockets.sockets[kFd].info.route_ifindex = 50;
  const auto reply = core.rx_assoc(request(), kPod);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->dev_id, dev);
  EXPECT_EQ(assoc()->netdev, (NetdevKey{kPod, 50}));
  ASSERT_TRUE(core.tx_assoc(tx_request(), kPod));
  ASSERT_TRUE(core.dev_disassoc(kMain, dev, 50, 1));
  ASSERT_NE(assoc(), nullptr) << "the socket stays blocked, not clear";
}

TEST_F(CoreTest, ADeviceThatTheCallerDoesNotSeeIsNoDevice) {
  EXPECT_EQ(core.rx_assoc(request(), kStranger).error(), missing(Field::kDevId));
  AssocRequest r = tx_request();
  r.dev_id = dev;
  EXPECT_EQ(core.rx_assoc(r, kStranger).error(), error(ENOENT));
  EXPECT_EQ(core.tx_assoc(r, kStranger).error(), error(ENOENT));
  r.dev_id = 99;
  EXPECT_EQ(core.rx_assoc(r, kStranger).error(), error(ENODEV));
  EXPECT_TRUE(core.rx_assoc(request(), kMain));
}

TEST_F(CoreTest, WithoutRouteTheNetdevIsOneOfTheSocketsNamespace) {
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 50, 1));
  const auto netdev_of = [&](std::uint64_t netns, std::uint64_t cookie) {
    add_socket(9, cookie, 0);
    sockets.sockets[9].info.netns = netns;
    AssocRequest r = request(9);
    r.dev_id = dev;
    EXPECT_TRUE(core.rx_assoc(r));
    return assoc(cookie)->netdev;
  };
  EXPECT_EQ(netdev_of(kMain, 1), (NetdevKey{kMain, kIfindex}));
  EXPECT_EQ(netdev_of(kPod, 2), (NetdevKey{kPod, 50}));
}

TEST_F(CoreTest, WhereADeviceHasNoNetdevItHasNoKeys) {
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 50, 1));
  sockets.sockets[kFd].info.netns = kOther;
  AssocRequest r = tx_request();
  r.dev_id = dev;
  const Error refused =
      error(EOPNOTSUPP, "Socket is in a network namespace without PSP device", Field::kSockFd);
  for (const auto caller : {Core::Caller{}, Core::Caller{kMain}, Core::Caller{kPod}}) {
    EXPECT_EQ(core.rx_assoc(r, caller).error(), refused);
    EXPECT_EQ(core.tx_assoc(r, caller).error(), refused);
  }
  EXPECT_THAT(driver.asked_in, IsEmpty());
}

TEST_F(CoreTest, KeysAreOfTheSocketsNamespaceWhoeverAsks) {
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 50, 1));
  sockets.sockets[kFd].info.netns = kPod;
  sockets.sockets[kFd].info.route_ifindex = 50;
  add_socket(4, 2000);
  for (const int fd : {kFd, 4}) {
    ASSERT_TRUE(core.rx_assoc(request(fd), fd == 4 ? kPod : kMain));
    ASSERT_TRUE(core.tx_assoc(tx_request(fd), fd == 4 ? kPod : kMain));
  }
  EXPECT_THAT(driver.asked_in, ElementsAre(kPod, kMain));
  EXPECT_THAT(driver.key_netns, ElementsAre(Pair(1u, kPod), Pair(2u, kMain)));
  core.release(kCookie);
  core.release(2000);
  EXPECT_THAT(driver.tx_keys, IsEmpty());
  EXPECT_EQ(driver.bad_deletes, 0);
}

TEST_F(CoreTest, ANamespaceIsUnusedWithoutNetdevAndAssociation) {
  const auto secure = [&] {
    sockets.sockets[kFd].info.netns = kPod;
    sockets.sockets[kFd].info.route_ifindex = 50;
    ASSERT_TRUE(core.dev_assoc(kMain, dev, 50, 1));
    ASSERT_TRUE(core.rx_assoc(request()));
    ASSERT_TRUE(core.tx_assoc(tx_request()));
  };
  secure();
  ASSERT_TRUE(core.dev_disassoc(kMain, dev, 50, 1));
  EXPECT_THAT(driver.unused, IsEmpty()) << "its socket is blocked and may be let go on";
  core.release(kCookie);
  EXPECT_THAT(driver.unused, ElementsAre(kPod));
  EXPECT_THAT(driver.tx_keys, IsEmpty());
  driver.unused.clear();
  sockets.sockets[kFd].attached.reset();
  secure();
  core.release(kCookie);
  EXPECT_THAT(driver.unused, IsEmpty()) << "its netdev can have others";
  core.netdev_gone({kPod, 50});
  EXPECT_THAT(driver.unused, ElementsAre(kPod));
  add_socket(4, 2000);
  ASSERT_TRUE(core.rx_assoc(request(4)));
  core.release(2000);
  EXPECT_THAT(driver.unused, ElementsAre(kPod)) << "the main namespace is never unused";
}

TEST_F(CoreTest, TheRulesOfTheNewestReleaseAreTheDefault) {
  EXPECT_EQ(Core(sockets).compat(), Compat::kLinux72);
}

TEST_F(CoreTest, ReleasesTakeAnyTcpState) {
  sockets.sockets[kFd].info.established = false;
  EXPECT_EQ(core.rx_assoc(request()).error().sys_errno, ENOTCONN);
  core.set_compat(Compat::kLinux618);
  EXPECT_TRUE(core.rx_assoc(request()));
  core.set_compat(Compat::kLinux72);
  EXPECT_TRUE(core.tx_assoc(tx_request()));
  core.set_compat(Compat::kNetNext);
  EXPECT_EQ(core.tx_assoc(tx_request()).error(),
            error(ENOTCONN, "Socket must be in established state"));
}

}  // namespace
}  // namespace psp::device
