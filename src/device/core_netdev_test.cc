// SPDX-License-Identifier: Apache-2.0
//
// Network namespaces under the rules of the `psp` family: the device is in namespace 0, the netdevs
// associated with it in 101 and so on. Who sees a device, who may change it, who is told of it, and
// whose keys a socket gets, for it must never be those of another namespace. The Core is real;
// netdevs, sockets and driver are models (core_fakes.hh). Both rule sets where they differ. Real
// namespaces: tests/netns.
#include "core_fixture.hh"

namespace psp::device {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

constexpr std::uint64_t kMain = 0, kPod = 101, kOther = 102, kStranger = 109;

TEST_F(CoreTest, DevicesAreVisibleWhereTheyHaveANetdev) {
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 50, 1));
  for (const std::uint64_t netns : {kMain, kPod}) {
    EXPECT_TRUE(core.devices().find(dev, netns)) << netns;
    EXPECT_TRUE(core.stats(dev, netns)) << netns;
    EXPECT_EQ(core.devices().all(netns).size(), 1u) << netns;
  }
  EXPECT_EQ(core.devices().find(dev, kStranger).error(), error(ENOENT));
  EXPECT_EQ(core.stats(dev, kStranger).error(), error(ENOENT));
  EXPECT_THAT(core.devices().all(kStranger), IsEmpty());
  EXPECT_EQ(core.devices().find(99, kStranger).error(), error(ENODEV)) << "unknown comes first";
  EXPECT_TRUE(core.devices().find(dev)) << "pspd itself sees all";
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
  EXPECT_EQ(core.devices().find(dev).value()->associated.back(), (NetdevKey{kPod, 51}));
  EXPECT_EQ(core.devices().find(dev).value()->associated.size(), kAssociatedMax);
  EXPECT_EQ(netdevs.attached.size(), kAssociatedMax);
  EXPECT_EQ(netdevs.mistakes, 0);
  EXPECT_EQ(netdevs.asked_in.back(), kMain) << "nsids are numbers of the caller's namespace";
}

TEST_F(CoreTest, WhatMemoryRanOutInIsNotHalfDone) {
  netdevs.out_of_memory = sockets.out_of_memory = true;
  EXPECT_THROW((void)core.dev_assoc(kMain, dev, 50, 1), std::bad_alloc);
  EXPECT_THROW((void)core.rx_assoc(request()), std::bad_alloc);
  EXPECT_EQ(core.associations().size(), 0u);
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
  EXPECT_THAT(core.devices().find(dev).value()->associated, ElementsAre(NetdevKey{kOther, 60}));
  EXPECT_EQ(netdevs.mistakes, 0);
}

TEST_F(CoreTest, ADevDisassocThatTheHostRefusesChangesNothing) {
  ASSERT_TRUE(core.dev_assoc(kMain, dev, 50, 1));
  log.take();
  netdevs.refuse_detach = error(EIO, "as it was");
  EXPECT_EQ(core.dev_disassoc(kMain, dev, 50, 1).error(), error(EIO, "as it was"));
  EXPECT_THAT(log.take(), IsEmpty());
  EXPECT_THAT(core.devices().find(dev).value()->associated, ElementsAre(NetdevKey{kPod, 50}));
  EXPECT_THAT(driver.unused, IsEmpty());
  core.netdev_gone({kPod, 50});
  EXPECT_THAT(core.devices().find(dev).value()->associated, IsEmpty()) << "nobody is asked";
  EXPECT_THAT(netdevs.attached, IsEmpty());
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
  EXPECT_THAT(core.devices().find(dev).value()->associated,
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
  EXPECT_EQ(core.devices().find(dev, kPod).error(), error(ENOENT));
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
  EXPECT_EQ(core.devices().find(dev, kPod).error(), error(ENOENT));
  core.netdev_gone({kMain, 60});
  EXPECT_THAT(log.take(), ElementsAre("change 1 ena 0 with 1"));
  EXPECT_THAT(driver.unused, ElementsAre(kPod));
  EXPECT_THAT(netdevs.attached, IsEmpty());
  EXPECT_EQ(netdevs.mistakes, 0);
}

TEST_F(CoreTest, NetdevGoneIsForAssociatedNetdevsOnly) {
  core.netdev_gone({kMain, kIfindex});
  core.netdev_gone({kPod, 50});
  EXPECT_TRUE(core.devices().find(dev));
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
  for (const auto caller : {Caller{}, Caller{kMain}, Caller{kPod}}) {
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
