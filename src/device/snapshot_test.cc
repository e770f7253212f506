// SPDX-License-Identifier: Apache-2.0
//
// A host that was saved and restored is the one it was: it has the same state, answers whatever
// comes as the other would have, and opens what was sealed before. A state that was cut, changed or
// cannot be is refused.
#include "device/snapshot.hh"

#include <gtest/gtest.h>  // before rapidcheck's, which does not include it
#include <map>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>
#include <type_traits>

#include "core_fakes.hh"
#include "driver_test_support.hh"

namespace psp::device {
namespace {

using test::Octets;

constexpr std::uint64_t kPod = 101;  // the namespace that FakeNetdevs knows as nsid 1
constexpr int kSockets = 5;

// World is a host with devices of software in two namespaces. Its random numbers and its clock are
// those of the world that it was made after.
class World {
 public:
  World() {
    for (int fd = 0; fd < kSockets; ++fd) fresh_socket(fd);
  }
  // One that goes on from a state of `other`.
  World(const World& other, const HostState& state)
      : sockets_(other.sockets_),
        netdevs_(other.netdevs_),
        seed_(other.seed_),
        last_cookie_(other.last_cookie_),
        handed_(other.handed_),
        ivs_([] { return kNow; }, state.next_iv) {
    std::size_t next = 0;
    for (const SavedRecord& record : state.core.records)
      if (record.registered != 0)
        devices_[record.id] = restore(state.devices.at(next++), options()).value();
    core_ = restore(state.core, sockets_, &netdevs_, {}, [this](std::uint16_t id) {
              return devices_.at(id).get();
            }).value();
  }

  HostState state() const {
    return save(*core_, ivs_, [this](std::uint16_t id) { return devices_.at(id).get(); }).value();
  }
  crypto::WipedVector octets() const { return write(state()); }

  // apply does something and says what came of it. `what` chooses what, to whom and how.
  std::string apply(std::uint32_t what) {
    const unsigned a = what / 16 % 5, b = what / 80 % 4;
    switch (what % 16) {
      case 0:
        return add_device(a % 3 + 1);
      case 1:
        return remove_device(a);
      case 2:
        return said(core_->set_versions(id(a), VersionSet{what / 80 % 16}));
      case 3:
        return rotate(id(a));
      case 4:
        return b == 0 ? said(core_->drop_keys()) : rotate(id(a));
      case 5:
      case 6:
      case 7:
        return rx_assoc(static_cast<int>(a), static_cast<Version>(b));
      case 8:
      case 9:
        return tx_assoc(static_cast<int>(a), static_cast<Version>(b));
      case 10:
        core_->end(cookie(static_cast<int>(a)));
        return "end";
      case 11:
        core_->release(cookie(static_cast<int>(a)));
        fresh_socket(static_cast<int>(a));
        return "release";
      case 12:
        return associate(id(a), b);
      case 13:
        return said(core_->dev_disassoc(0, id(a), 50 + b, 1));
      case 14:
        return open(b);
      default:
        return send(static_cast<int>(a), b);
    }
  }

  const Core& core() const { return *core_; }
  // fill leaves something of all that there can be.
  void fill() {
    struct Deed {
      std::uint32_t what, a, b = 0;
    };
    constexpr std::uint32_t kAdd = 0, kRemove = 1, kEnable = 2, kRotate = 3, kDropKeys = 4, kRx = 5,
                            kTx = 8, kEnd = 10, kRelease = 11, kAssociate = 12, kOpen = 14,
                            kSend = 15;
    for (const Deed& deed :
         {Deed{kAdd, 0}, {kAdd, 1},      {kEnable, 0, 15}, {kEnable, 1, 15}, {kAssociate, 0},
          {kRx, 0},      {kOpen, 0},     {kTx, 0},         {kSend, 0},       {kRelease, 0},
          {kRx, 0},      {kRx, 1, 1},    {kTx, 1, 1},      {kSend, 1, 1},    {kRotate, 0},
          {kRx, 3},      {kTx, 3},       {kSend, 3},       {kOpen, 0},       {kEnd, 0},
          {kRotate, 0},  {kRotate, 0},   {kRx, 4},         {kRemove, 1},     {kRelease, 0},
          {kRx, 0},      {kDropKeys, 0}, {kRelease, 3},    {kRx, 3},         {kTx, 3},
          {kEnd, 3}})
      apply(deed.what + 16 * deed.a + 80 * deed.b);
  }

 private:
  static constexpr std::uint64_t kNow = 1'000'000;
  struct Handed {
    std::uint16_t dev_id;
    std::uint64_t netns;
    Version version;
    Spi spi;
    Octets key;
  };

  SoftwareDriverOptions options() {
    SoftwareDriverOptions o;
    o.backend = &crypto::openssl_backend();
    o.ivs = &ivs_;
    o.random = [this](std::span<std::uint8_t> out) {
      for (std::uint8_t& octet : out) {
        seed_ = seed_ * 6364136223846793005u + 1442695040888963407u;
        octet = static_cast<std::uint8_t>(seed_ >> 56);
      }
    };
    o.keep_device_keys = true;
    return o;
  }
  // id is that of one of the devices, or of one that there is not.
  std::uint16_t id(unsigned which) const {
    return devices_.empty() ? std::uint16_t{9}
                            : std::next(devices_.begin(), which % devices_.size())->first;
  }
  std::uint64_t cookie(int fd) const { return sockets_.sockets.at(fd).info.cookie; }
  // Sockets 0 to 2 are of the host, the others of the pod.
  void fresh_socket(int fd) {
    SocketInfo info{.cookie = ++last_cookie_, .established = true};
    info.netns = fd < 3 ? 0 : kPod;
    info.route_ifindex =
        fd < 3 ? static_cast<std::uint32_t>(fd) + 1 : 47u + static_cast<unsigned>(fd);
    info.uid = fd == 0 ? 0 : 1000;
    sockets_.sockets[fd] = {.info = info};
  }
  template <typename T>
  static std::string said(const Result<T>& result) {
    return result ? "done" : std::to_string(result.error().sys_errno) + " " + result.error().text;
  }

  std::string add_device(std::uint32_t ifindex) {
    auto device = std::make_unique<SoftwareDevice>(options());
    device->join(0);
    const auto added = core_->add_device({0, ifindex}, "eth" + std::to_string(ifindex),
                                         VersionSet::all(), *device);
    if (!added) return said(added);
    devices_[*added] = std::move(device);
    return "device " + std::to_string(*added);
  }
  std::string remove_device(unsigned which) {
    const std::uint16_t gone = id(which);
    core_->remove_device(gone);
    devices_.erase(gone);
    return "removed";
  }
  std::string rotate(std::uint16_t id) {
    const auto rotated = core_->key_rotate(id);
    return rotated ? "generation " + std::to_string((*rotated)->generation) : said(rotated);
  }
  std::string associate(std::uint16_t id, unsigned which) {
    const auto done = core_->dev_assoc(0, id, 50 + which, 1);
    if (done) devices_.at(id)->join(kPod);
    return said(done);
  }
  AssocRequest request(int fd, Version version) const {
    AssocRequest request;
    request.fd = fd;
    request.version = version;
    return request;
  }
  std::string rx_assoc(int fd, Version version) {
    const auto reply = core_->rx_assoc(request(fd, version));
    if (!reply) return said(reply);
    const auto key = reply->rx_key.key.span();
    handed_.push_back({reply->dev_id,
                       sockets_.sockets.at(fd).info.netns,
                       version,
                       reply->rx_key.spi,
                       {key.begin(), key.end()}});
    return std::to_string(reply->dev_id) + " " + std::to_string(reply->rx_key.spi.value) + " " +
           testing::PrintToString(handed_.back().key);
  }
  std::string tx_assoc(int fd, Version version) {
    const Octets key = test::pattern(key_size(version));
    AssocRequest wanted = request(fd, version);
    wanted.tx_key = AssocRequest::Keys{.spi = 0x80000005, .key = key};
    const auto done = core_->tx_assoc(wanted);
    if (!done) return said(done);
    return "handle " + std::to_string(core_->associations().find(cookie(fd))->tx_handle);
  }
  // open has a worker open what a peer has sealed under one of the last keys that were handed out.
  std::string open(unsigned which) {
    if (which >= handed_.size()) return "nothing";
    const Handed& handed = handed_[handed_.size() - 1 - which];
    const auto device = devices_.find(handed.dev_id);
    if (device == devices_.end() || !device->second->has(handed.netns)) return "no device";
    const Octets datagram =
        test::seal(crypto::openssl_backend(), handed.spi, handed.key, {.version = handed.version});
    Octets out(datagram.size());
    const auto opened =
        device->second->join(handed.netns).make_engine()->open(datagram, out.data());
    return opened ? "generation " + std::to_string(opened->generation)
                  : std::string(name(opened.error()));
  }
  // send has a worker look for the Tx key of a socket, or notes where its clear octets end.
  std::string send(int fd, unsigned how) {
    const Association* association = core_->associations().find(cookie(fd));
    if (association == nullptr || !association->tx_spi) return "no key";
    const auto device = devices_.find(association->rx.dev_id);
    if (device == devices_.end()) return "no device";
    const std::uint64_t netns = association->netdev.netns;
    if (how == 0) device->second->set_clear_boundary(netns, association->tx_handle, 4711);
    const auto engine = device->second->join(netns).make_engine();
    const auto session = engine->tx_begin(association->tx_handle);
    if (!session) return std::string(name(session.error()));
    engine->count_tx(1, 100);
    return std::to_string(session->spi.value) + " from " + std::to_string(session->clear_boundary) +
           " IV " + std::to_string(engine->reserve_ivs(3));
  }

  ModelSockets sockets_;
  FakeNetdevs netdevs_;
  std::uint64_t seed_ = 1;
  std::uint64_t last_cookie_ = 0;
  std::vector<Handed> handed_;
  IvAllocator ivs_{[] { return kNow; }};
  std::map<std::uint16_t, std::unique_ptr<SoftwareDevice>> devices_;
  std::unique_ptr<Core> core_ = std::make_unique<Core>(sockets_, &netdevs_);
};

rc::Gen<std::vector<std::uint32_t>> deeds() {
  return rc::gen::container<std::vector<std::uint32_t>>(
      rc::gen::inRange<std::uint32_t>(0, 16 * 5 * 16));
}

RC_GTEST_PROP(Snapshot, WhoIsRestoredGoesOnAsItWouldHave, ()) {
  World world;
  world.fill();
  for (const std::uint32_t what : *deeds()) world.apply(what);
  const auto octets = world.octets();
  const auto state = read(octets);
  RC_ASSERT(state.has_value());
  World other(world, *state);
  RC_ASSERT(other.octets() == octets);
  for (const std::uint32_t what : *deeds()) {
    RC_ASSERT(other.apply(what) == world.apply(what));
    RC_ASSERT(other.core().devices().all().size() == world.core().devices().all().size());
  }
  RC_ASSERT(other.octets() == world.octets());
}

class SnapshotTest : public testing::Test {
 protected:
  SnapshotTest() { world.fill(); }
  World world;
};

TEST_F(SnapshotTest, AWorldThatIsSavedHasSomethingOfAll) {
  const HostState state = world.state();
  EXPECT_EQ(state.core.records.size(), 2u);
  EXPECT_EQ(state.devices.size(), 1u) << "one has gone, and its associations hold its id";
  EXPECT_FALSE(state.core.netdevs.empty());
  EXPECT_FALSE(state.core.associations.empty());
  EXPECT_EQ(state.devices[0].drivers.size(), 2u);
  EXPECT_FALSE(state.devices[0].slots.empty());
  EXPECT_FALSE(state.devices[0].free.empty());
  EXPECT_GT(
      state.devices[0].drivers[0].totals.rx_packets + state.devices[0].drivers[0].totals.tx_packets,
      0u);
}

TEST_F(SnapshotTest, OneThatWasCutOrHasMoreBehindItIsRefused) {
  auto octets = world.octets();
  for (std::size_t size = 0; size < octets.size(); ++size)
    ASSERT_FALSE(read(std::span(octets).first(size))) << size;
  for (int i = 0; i < 16; ++i) {
    octets.push_back(0);
    EXPECT_FALSE(read(octets));
  }
}

TEST_F(SnapshotTest, OneWithASingleBitFlippedIsRefused) {
  auto octets = world.octets();
  ASSERT_TRUE(read(octets));
  for (std::size_t at = 0; at < octets.size(); ++at)
    for (int bit = 0; bit < 8; ++bit) {
      octets[at] ^= static_cast<std::uint8_t>(1 << bit);
      ASSERT_FALSE(read(octets)) << at << " " << bit;
      octets[at] ^= static_cast<std::uint8_t>(1 << bit);
    }
}

TEST_F(SnapshotTest, OneOfAnotherVersionIsRefusedByName) {
  auto octets = world.octets();
  octets[8]++;
  EXPECT_EQ(read(octets).error(), "a state of another version: 2");
}

// made_right puts the checksum right again, as nobody does by accident.
void made_right(crypto::WipedVector& octets) {
  constexpr std::size_t kAt = 24;
  std::fill_n(octets.begin() + kAt, 8, std::uint8_t{0});
  std::uint64_t sum = 0xcbf29ce484222325u;
  for (const std::uint8_t octet : octets) sum = (sum ^ octet) * 0x100000001b3u;
  std::memcpy(octets.data() + kAt, &sum, sizeof sum);
}

RC_GTEST_PROP(Snapshot, WhatIsAcceptedCanBeRestoredWhoeverWroteIt, ()) {
  World world;
  world.fill();
  auto octets = world.octets();
  const auto changes =
      *rc::gen::container<std::vector<std::pair<std::size_t, std::uint8_t>>>(rc::gen::pair(
          rc::gen::inRange<std::size_t>(0, octets.size()), rc::gen::arbitrary<std::uint8_t>()));
  for (const auto& [at, value] : changes) octets[at] = value;
  made_right(octets);
  const auto state = read(octets);
  if (!state) return;
  RC_ASSERT(write(*state) == octets);
  World other(world, *state);
  for (const std::uint32_t what : *deeds()) other.apply(what);
}

// What no host can come to is not restored, though its octets be whole.
TEST_F(SnapshotTest, OneThatCannotBeIsRefused) {
  struct Row {
    const char* problem;
    void (*spoil)(HostState&);
  };
  const Row table[] = {
      {"an association of another device key",
       [](HostState& s) { s.core.associations[0].rx.version = 4; }},
      {"an association of another device key",
       [](HostState& s) { s.core.associations[0].rx.dev_id++; }},
      {"an association that cannot be", [](HostState& s) { s.core.associations[0].flags = 8; }},
      {"two associations of one socket",
       [](HostState& s) { s.core.associations[1].cookie = s.core.associations[0].cookie; }},
      {"lists that do not add up", [](HostState& s) { s.core.associations.push_back({}); }},
      {"lists that do not add up", [](HostState& s) { s.core.netdevs.push_back({}); }},
      {"two devices of one id",
       [](HostState& s) { std::swap(s.core.records[0], s.core.records[1]); }},
      {"two devices of one netdev",
       [](HostState& s) {
         s.core.netdevs[0] = {0, 1, 0};
       }},
      {"a device that cannot be", [](HostState& s) { s.core.records[0].id = 0; }},
      {"netdevs that a device cannot have",
       [](HostState& s) { s.core.records[0].ifname.fill('x'); }},
      {"versions that a device cannot have",
       [](HostState& s) { s.core.records[0].versions_ena = 16; }},
      {"a device that has gone, and is not held",
       [](HostState& s) { s.core.records[0].registered = 0; }},
      {"a device without its keys", [](HostState& s) { s.devices.clear(); }},
      {"a software device that cannot be", [](HostState& s) { s.devices[0].device.phase = 2; }},
      {"a part of a device that cannot be",
       [](HostState& s) { s.devices[0].drivers[0].keys.phase ^= 1; }},
      {"two parts of a device in one network namespace",
       [](HostState& s) { s.devices[0].drivers[1].netns = s.devices[0].drivers[0].netns; }},
      {"device keys that cannot be", [](HostState& s) { s.devices[0].drivers[0].keys.epoch = 0; }},
      {"SPIs that cannot be",
       [](HostState& s) { s.devices[0].drivers[0].keys.by_phase[0].spis.given = 0x80000000; }},
      {"a Tx key that cannot be", [](HostState& s) { s.devices[0].slots[0].sequence = 7; }},
      {"a Tx key in another's slot",
       [](HostState& s) { s.devices[0].slots[0].handle = 0x01000005; }},
      {"a free handle that is not free", [](HostState& s) { s.devices[0].free[0] = 0x01000005; }},
      {"a slot that nobody can have",
       [](HostState& s) {
         s.devices[0].free.clear();
         for (SavedDriver& driver : s.devices[0].drivers) driver.free = 0;
       }},
  };
  for (const Row& row : table) {
    HostState state = world.state();
    row.spoil(state);
    const auto again = read(write(state));
    ASSERT_FALSE(again) << row.problem;
    EXPECT_EQ(again.error(), row.problem);
  }
}

TEST_F(SnapshotTest, OfADeviceThatKeepsNoKeysThereIsNone) {
  SoftwareDriverOptions options;
  options.backend = &crypto::openssl_backend();
  SoftwareDevice device(options);
  EXPECT_TRUE(save(device)) << "it has none yet";
  device.join(1);
  EXPECT_EQ(save(device).error(), "its device keys are not kept");
}

TEST_F(SnapshotTest, ADeviceWithoutDriverIsNotRestored) {
  ModelSockets sockets;
  const auto core = restore(world.state().core, sockets, nullptr, {},
                            [](std::uint16_t) -> Driver* { return nullptr; });
  ASSERT_FALSE(core);
  EXPECT_NE(core.error().find("has no driver"), std::string::npos) << core.error();
}

static_assert(std::is_same_v<decltype(DeviceState::drivers), WipedList<SavedDriver>> &&
                  std::is_same_v<decltype(DeviceState::slots), WipedList<SavedSlot>> &&
                  std::is_same_v<decltype(write({})), crypto::WipedVector>,
              "what has keys is wiped");

}  // namespace
}  // namespace psp::device
