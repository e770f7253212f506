// SPDX-License-Identifier: Apache-2.0
//
// Devices under the rules of the `psp` family: their ids and settings, statistics, and how they
// come and go. The Core is real, its driver is a model that keeps a log (core_fakes.hh). Ids are
// given out round and round through all 65,535, since one that came again while an association
// still has it would be another device to that socket. How netdevs come and go for real is in
// tests/netns.
#include "core_fixture.hh"

namespace psp::device {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

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
  EXPECT_EQ(core.devices().find(dev).value()->config.versions_ena.bits, 0u)
      << "stored on success only";
  EXPECT_THAT(log.take(), IsEmpty());
}

TEST_F(CoreTest, UnknownDevices) {
  for (const std::uint32_t id : {0u, 2u, 65536u + dev, 0xffff'ffffu}) {
    EXPECT_EQ(core.devices().find(id).error(), error(ENODEV)) << id;
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
  const Device& device = *core.devices().find(dev).value();
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
  EXPECT_EQ(core.devices().find(dev).error(), error(ENODEV));
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

class LateIds : public CoreTest {
 protected:
  LateIds() : CoreTest({.first_id = 0xfffe}) {}
};

TEST_F(LateIds, BeginWhereTheyAreToldTo) {
  core.remove_device(dev);
  std::vector<std::uint16_t> ids{dev};
  for (int i = 0; i < 2; ++i) {
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
  EXPECT_THAT(core.devices().all(), IsEmpty());
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
  EXPECT_EQ(core.associations().size(), 0u);
}

TEST_F(CoreTest, ListsDevicesById) {
  const auto second = core.add_device({0, 8}, "eth1", VersionSet{1}, driver).value();
  const auto third = core.add_device({0, 9}, "eth2", VersionSet{1}, driver).value();
  core.remove_device(second);
  std::vector<std::uint16_t> ids;
  for (const Device* device : core.devices().all()) ids.push_back(device->id);
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
  core.associations().for_each([&](const Association& a) { cookies.push_back(a.cookie); });
  EXPECT_THAT(cookies, UnorderedElementsAre(100, 101, 102, 103, 104));
}

TEST_F(CoreTest, WorksWithoutAListener) {
  core.set_notifier(nullptr);
  EXPECT_TRUE(core.rx_assoc(request()));
  EXPECT_TRUE(core.key_rotate(dev));
  EXPECT_TRUE(core.key_rotate(dev));
  EXPECT_TRUE(core.set_versions(dev, VersionSet{1}));
  core.remove_device(dev);
  EXPECT_THAT(log.take(), IsEmpty());
}

}  // namespace
}  // namespace psp::device
