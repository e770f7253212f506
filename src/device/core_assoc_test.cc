// SPDX-License-Identifier: Apache-2.0
//
// Associations under the rules of the `psp` family: rx-assoc, tx-assoc, limits, and what rotations
// do to them. The Core is real, its sockets and its driver are models (core_fakes.hh). The oracle
// of refusals is the kernel's order, row by row of docs/compatibility.md: a request that is wrong
// in every way is repaired fault by fault, and each must be named in its turn. The same refusals as
// messages: netlink/server_errors_test.cc; on real sockets: tests/netns.
#include "core_fixture.hh"

namespace psp::device {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

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
  EXPECT_EQ(core.associations().size(), 2u);
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

TEST_F(CoreTest, ATxKeyThatASocketHasInVainStaysUntilTheSocketGoes) {
  ASSERT_TRUE(core.rx_assoc(request()));
  AssocRequest r = request();
  r.tx_key = AssocRequest::Keys{.spi = 5, .key = std::span(key).first(16)};
  sockets.switched_in_vain = true;
  EXPECT_EQ(core.tx_assoc(r).error(),
            error(EIO, "The Tx key is set, and the socket is of no use: close it"));
  EXPECT_EQ(driver.tx_keys.size(), 1u) << "the socket's packets look for it";
  EXPECT_TRUE(assoc()->tx_spi);
  EXPECT_EQ(core.tx_assoc(r).error(), error(EBUSY, "Tx key already set"));
  core.release(kCookie);
  EXPECT_TRUE(driver.tx_keys.empty());
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
  EXPECT_EQ(attached->rx.dev_id, dev);
  EXPECT_EQ(attached->rx.spi, 0x8000'0007u);
  EXPECT_EQ(attached->version(), Version::kAesGcm128);
  EXPECT_FALSE(attached->tx_spi);
  EXPECT_FALSE(attached->stale);
  ASSERT_NE(assoc(), nullptr);
  EXPECT_EQ(assoc()->rx.spi, attached->rx.spi);
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
  EXPECT_EQ(core.associations().size(), 0u);
  EXPECT_EQ(assoc(), nullptr);
}

class RoomForFive : public CoreTest {
 protected:
  RoomForFive() : CoreTest({.limits = {.all = 5, .of_a_user = 2}}) {}
};

TEST_F(RoomForFive, AUserCannotHaveAllAssociationsAndRootCan) {
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

class RoomForTen : public CoreTest {
 protected:
  static constexpr std::uint64_t kHome = 0, kPod = 101;
  RoomForTen()
      : CoreTest({.limits = {.all = 10, .of_a_user = 3, .of_all_users = 6, .home = kHome}}) {}
  int ask(int fd, std::uint64_t netns, std::uint32_t uid) {
    constexpr std::uint32_t kIfindexInPod = 50;
    add_socket(fd, static_cast<std::uint64_t>(fd), netns == kHome ? kIfindex : kIfindexInPod);
    sockets.sockets[fd].info.uid = uid;
    sockets.sockets[fd].info.netns = netns;
    const auto done = core.rx_assoc(request(fd));
    return done ? 0 : done.error().sys_errno;
  }
};

TEST_F(RoomForTen, AContainerIsOneUserAndRootAtHomeHasWhatAllOthersLeave) {
  ASSERT_TRUE(core.dev_assoc(kHome, dev, 50, 1));
  EXPECT_EQ(ask(11, kPod, 0), 0);
  EXPECT_EQ(ask(12, kPod, 1000), 0);
  EXPECT_EQ(ask(13, kPod, 1001), 0);
  EXPECT_EQ(ask(14, kPod, 1002), EDQUOT);
  EXPECT_EQ(ask(15, kPod, 0), EDQUOT) << "its root is no other";
  for (const int fd : {16, 17, 18}) EXPECT_EQ(ask(fd, kHome, 1000), 0) << "the uid of another";
  EXPECT_EQ(ask(19, kHome, 1001), ENOSPC) << "what is left is for root";
  for (const int fd : {20, 21, 22, 23}) EXPECT_EQ(ask(fd, kHome, 0), 0);
  EXPECT_EQ(ask(24, kHome, 0), ENOSPC);
  core.release(11);
  EXPECT_EQ(ask(25, kPod, 1003), 0) << "room again";
}

class RoomForOne : public CoreTest {
 protected:
  RoomForOne() : CoreTest({.limits = {.all = 1, .of_a_user = 1}}) {}
};

TEST_F(RoomForOne, ARefusedSocketCountsForNobody) {
  sockets.sockets[kFd].info.uid = 1000;
  sockets.refuse_rx = error(EINVAL, "Socket has incompatible state");
  EXPECT_EQ(core.rx_assoc(request()).error().sys_errno, EINVAL);
  EXPECT_EQ(core.associations().find(kCookie), nullptr);
  sockets.refuse_rx.reset();
  EXPECT_TRUE(core.rx_assoc(request()));
}

TEST_F(CoreTest, AssocDoesNotLookAtEnabledVersions) {
  EXPECT_EQ(core.devices().find(dev).value()->config.versions_ena.bits, 0u);
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
  EXPECT_EQ(core.associations().size(), 0u);
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
  EXPECT_EQ(assoc()->rx.generation, 0u);
  EXPECT_FALSE(assoc(2000)->stale);
  EXPECT_EQ(assoc(2000)->rx.generation, 1u);
  EXPECT_EQ(core.stats(dev)->stale_events, 1u);
  EXPECT_THAT(log.take(), ElementsAre("rotate 1"));

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

}  // namespace
}  // namespace psp::device
