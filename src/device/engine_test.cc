// SPDX-License-Identifier: Apache-2.0
//
// The worker half of the software driver: what opens, what is dropped and how it is counted, Tx
// sessions, and both under a control thread that rotates and deletes.
// Threading: the last tests start threads of their own; run under ThreadSanitizer too.
#include <algorithm>
#include <array>
#include <atomic>
#include <gtest/gtest.h>
#include <string>
#include <thread>
#include <tuple>

#include <psp/device/software_driver.hh>
#include <psp/wire/bytes.hh>

#include "driver_test_support.hh"

namespace psp::device {

inline void PrintTo(const DriverStats& s, std::ostream* os) {
  *os << "rx " << s.rx_packets << "/" << s.rx_bytes << " auth " << s.rx_auth_fail << " error "
      << s.rx_error << " bad " << s.rx_bad << " tx " << s.tx_packets << "/" << s.tx_bytes
      << " error " << s.tx_error;
}

namespace {

using test::Octets;
using test::Packet;

// Parameters: backend and size of the Rx cache; 0 is the stateless receiver, 1 always collides.
class EngineTest : public testing::TestWithParam<std::tuple<const crypto::Backend*, std::size_t>> {
 protected:
  const crypto::Backend& backend() const { return *std::get<0>(GetParam()); }
  SoftwareDriverOptions options() {
    SoftwareDriverOptions o;
    o.backend = &backend();
    o.ivs = &ivs;
    o.rx_cache_entries = std::get<1>(GetParam());
    o.tx_cache_entries = 2;
    return o;
  }
  void SetUp() override { enable(VersionSet::all()); }
  void enable(VersionSet versions) { driver.enable(versions); }

  Octets seal(const RxKey& rx, const Packet& packet) const {
    return test::seal(backend(), rx.spi, rx.key.span(), packet);
  }
  RxKey alloc(Version version = Version::kAesGcm128) {
    return driver.rx_spi_alloc(version).value();
  }
  // open into a buffer of exactly the size that the contract asks for.
  std::expected<RxMeta, Drop> open(const Octets& datagram) {
    out.assign(datagram.size() >= 32 ? datagram.size() - 32 : 0, 0xee);
    return engine->open(datagram, out.data());
  }
  // not_given is an SPI of the same phase that no key of this device gave out.
  static std::uint32_t not_given(const RxKey& rx) {
    const std::uint32_t far = (rx.spi.value + 1'000'000'000u) & Spi::kIndexMask;
    return (rx.spi.value & Spi::kPhaseBit) | std::max(far, 1u);
  }
  std::expected<RxMeta, Drop> open_sealed(const RxKey& rx, const Packet& packet = {}) {
    return open(seal(rx, packet));
  }
  DriverStats stats() { return driver.get_stats(); }
  std::uint64_t dropped(Drop reason) { return driver.drops()[static_cast<std::size_t>(reason)]; }

  IvAllocator ivs{[] { return std::uint64_t{1000}; }};
  SoftwareDriver driver{options()};
  std::unique_ptr<Engine> engine{driver.make_engine()};
  Octets out;
};
INSTANTIATE_TEST_SUITE_P(All, EngineTest,
                         testing::Combine(testing::ValuesIn(test::backends()),
                                          testing::Values(0, 1, 256)),
                         [](const auto& p) {
                           return test::backend_name(std::get<0>(p.param)) + std::string("Cache") +
                                  std::to_string(std::get<1>(p.param));
                         });

TEST_P(EngineTest, OpensEveryVersionAndShape) {
  std::uint64_t packets = 0, bytes = 0;
  for (const Version version : test::kAllVersions) {
    const RxKey rx = alloc(version);
    for (const std::size_t size : {0, 1, 15, 16, 20, 1460, 9000})
      for (const std::uint8_t units : {0, 1, 2, 5})
        for (const bool with_cookie : {false, true}) {
          Packet packet{.version = version, .iv = 0x0102'0304'0506'0708 + packets};
          packet.inner = test::pattern(size);
          if (with_cookie) packet.cookie = 0xfeed'beef'0000'0001 + packets;
          packet.ext_length = size == 20 ? 4 : 1;
          packet.crypt_offset = {units};
          const std::size_t ext = size == 20 ? 24 : with_cookie ? 8 : 0;
          if (packet.crypt_offset.octets() > ext + size) continue;
          const auto meta = open_sealed(rx, packet);
          ASSERT_TRUE(meta) << name(meta.error());
          EXPECT_EQ(meta->version, version);
          EXPECT_EQ(meta->generation, 0u);
          EXPECT_EQ(meta->header.spi, rx.spi);
          EXPECT_EQ(meta->header.iv, packet.iv);
          EXPECT_EQ(meta->header.cookie, packet.cookie) << "decrypted";
          ASSERT_EQ(meta->inner_offset, ext);
          ASSERT_EQ(meta->inner_size, size);
          EXPECT_TRUE(std::equal(packet.inner.begin(), packet.inner.end(), out.begin() + ext));
          ++packets;
          bytes += ext + size;
        }
  }
  EXPECT_EQ(stats(), (DriverStats{.rx_packets = packets, .rx_bytes = bytes}));
}

TEST_P(EngineTest, OpensInPlace) {
  const RxKey rx = alloc();
  Packet packet;
  packet.cookie = 77;
  Octets datagram = seal(rx, packet);
  const auto meta = engine->open(datagram, datagram.data() + 16);
  ASSERT_TRUE(meta);
  EXPECT_EQ(meta->header.cookie, 77u);
  EXPECT_TRUE(std::equal(packet.inner.begin(), packet.inner.end(),
                         datagram.begin() + 16 + static_cast<long>(meta->inner_offset)));
}

TEST_P(EngineTest, AnyChangedBitFailsAuthenticationOrTheHeaderCheck) {
  const RxKey rx = alloc();
  const Octets good = seal(rx, {.inner = test::pattern(20)});
  ASSERT_TRUE(open(good));
  std::uint64_t drops = 0;
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    Octets bad = good;
    bad[bit / 8] ^= static_cast<std::uint8_t>(1u << bit % 8);
    EXPECT_FALSE(open(bad)) << "bit " << bit;
    ++drops;
  }
  const DriverStats s = stats();
  EXPECT_EQ(s.rx_auth_fail + s.rx_error + s.rx_bad, drops);
  EXPECT_EQ(s.rx_packets, 1u);
  EXPECT_TRUE(open(good)) << "failures leave nothing behind";
}

TEST_P(EngineTest, EmptyCiphertextStillNeedsItsIcv) {
  const RxKey rx = alloc();
  Octets datagram = seal(rx, {.crypt_offset = {5}, .inner = test::pattern(20)});
  ASSERT_TRUE(open(datagram));
  datagram.back() ^= 1;
  EXPECT_EQ(open(datagram).error(), Drop::AUTH_FAIL);
}

TEST_P(EngineTest, CountsEachFaultUnderItsCounter) {
  const RxKey rx = alloc();
  const Octets good = seal(rx, {});
  const auto expect = [&](Octets datagram, Drop reason, const DriverStats& expected) {
    const auto result = open(datagram);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error(), reason) << name(result.error());
    EXPECT_EQ(stats(), expected) << name(reason);
  };
  const auto changed = [&](std::size_t at, std::uint8_t value) {
    Octets datagram = good;
    datagram[at] = value;
    return datagram;
  };
  const auto with_spi = [&](std::uint32_t spi) {
    Octets datagram = good;
    wire::store_be(datagram.data() + 4, spi);
    return datagram;
  };
  expect({}, Drop::TRUNCATED, {.rx_error = 1});
  expect({good.begin(), good.begin() + 31}, Drop::TRUNCATED, {.rx_error = 2});
  expect(changed(1, 0), Drop::BAD_HEADER, {.rx_error = 3});
  expect(changed(3, 0), Drop::BAD_HEADER, {.rx_error = 4});
  expect(changed(2, 63), Drop::BAD_CRYPT_OFFSET, {.rx_error = 5});
  expect(changed(3, 4 << 2 | 1), Drop::BAD_VERSION, {.rx_error = 5, .rx_bad = 1});
  expect(changed(3, 15 << 2 | 1), Drop::BAD_VERSION, {.rx_error = 5, .rx_bad = 2});
  expect(with_spi(0), Drop::BAD_SPI, {.rx_error = 5, .rx_bad = 3});
  expect(with_spi(0x8000'0000), Drop::BAD_SPI, {.rx_error = 5, .rx_bad = 4});
  expect(with_spi(rx.spi.value | 0x8000'0000), Drop::UNKNOWN_KEY, {.rx_error = 5, .rx_bad = 5});
  const RxKey other = alloc();
  expect(with_spi(not_given(other)), Drop::UNKNOWN_KEY, {.rx_error = 5, .rx_bad = 6});
  expect(changed(40, good[40] ^ 1), Drop::AUTH_FAIL,
         {.rx_auth_fail = 1, .rx_error = 5, .rx_bad = 6});
  expect(with_spi(other.spi.value), Drop::AUTH_FAIL,
         {.rx_auth_fail = 2, .rx_error = 5, .rx_bad = 6});
  expect(changed(3, 1 << 2 | 1), Drop::AUTH_FAIL,
         {.rx_auth_fail = 3, .rx_error = 5, .rx_bad = 6});  // another version, another key
  enable(VersionSet{0b1110});
  expect(good, Drop::VERSION_DISABLED, {.rx_auth_fail = 3, .rx_error = 5, .rx_bad = 7});
}

TEST_P(EngineTest, DeviceStartsWithReceptionOff) {
  SoftwareDriver fresh(options());
  const auto worker = fresh.make_engine();
  const RxKey rx = fresh.rx_spi_alloc(Version::kAesGcm128).value();
  const Octets datagram = seal(rx, {});
  out.resize(datagram.size());
  EXPECT_EQ(worker->open(datagram, out.data()).error(), Drop::VERSION_DISABLED);
}

TEST_P(EngineTest, EnablingIsPerVersionAndAtOnce) {
  std::vector<RxKey> keys;
  for (const Version version : test::kAllVersions) keys.push_back(alloc(version));
  for (std::uint32_t bits = 0; bits < 16; ++bits) {
    enable(VersionSet{bits});
    for (const Version version : test::kAllVersions) {
      const auto result =
          open_sealed(keys[static_cast<std::size_t>(version)], {.version = version});
      ASSERT_EQ(result.has_value(), VersionSet{bits}.has(version)) << bits;
      if (!result) {
        EXPECT_EQ(result.error(), Drop::VERSION_DISABLED);
      }
    }
  }
}

TEST_P(EngineTest, WrongKeyFails) {
  const RxKey rx = alloc();
  const RxKey other = alloc();
  const Octets datagram = test::seal(backend(), rx.spi, other.key.span(), {});
  EXPECT_EQ(open(datagram).error(), Drop::AUTH_FAIL);
  EXPECT_TRUE(open_sealed(rx));
  EXPECT_TRUE(open_sealed(other));
}

TEST_P(EngineTest, AnotherDevicesKeyFails) {
  SoftwareDriver elsewhere(options());
  RxKey foreign = elsewhere.rx_spi_alloc(Version::kAesGcm128).value();
  const RxKey rx = alloc();
  ASSERT_TRUE(open_sealed(rx));
  EXPECT_EQ(open_sealed(foreign).error(), Drop::UNKNOWN_KEY);
  foreign.spi = rx.spi;
  EXPECT_EQ(open_sealed(foreign).error(), Drop::AUTH_FAIL);
}

TEST_P(EngineTest, ActiveAndPreviousKeysOpenAndTwiceRotatedOnesDoNot) {
  std::vector<RxKey> keys;
  constexpr int kRotations = 6;
  for (int generation = 0; generation <= kRotations; ++generation) {
    keys.push_back(alloc());
    for (int age = 0; age <= generation; ++age) {
      const auto meta = open_sealed(keys[static_cast<std::size_t>(generation - age)]);
      ASSERT_EQ(meta.has_value(), age <= 1) << "generation " << generation << " age " << age;
      if (meta) {
        EXPECT_EQ(meta->generation, generation - age);
      } else {
        EXPECT_EQ(meta.error(), Drop::STALE_KEY);
      }
    }
    driver.key_rotate(static_cast<std::uint8_t>(generation + 1));
  }
}

TEST_P(EngineTest, RotationIsSeenByTheVeryNextPacket) {
  const RxKey rx = alloc();
  const Octets datagram = seal(rx, {});
  ASSERT_TRUE(open(datagram));  // its key is in the cache now
  driver.key_rotate(1);
  ASSERT_TRUE(open(datagram));
  driver.key_rotate(2);
  EXPECT_EQ(open(datagram).error(), Drop::STALE_KEY);
  driver.key_rotate(3);
  EXPECT_EQ(open(datagram).error(), Drop::STALE_KEY);
}

TEST_P(EngineTest, DerivesOnceWithACacheAndEveryTimeWithout) {
  const test::CountingBackend counting(backend());
  auto o = options();
  o.backend = &counting;
  SoftwareDriver counted(o);
  counted.enable(VersionSet::all());
  const auto worker = counted.make_engine();
  const RxKey rx = counted.rx_spi_alloc(Version::kAesGcm128).value();
  const Octets datagram = seal(rx, {});
  out.resize(datagram.size());
  counting.key_blocks = 0;
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(worker->open(datagram, out.data()));
  EXPECT_EQ(counting.key_blocks, o.rx_cache_entries == 0 ? 10 : 1);

  counting.key_blocks = 0;
  for (std::uint32_t spi = 1000; spi < 3000; ++spi) {  // invented SPIs push nothing out
    Octets forged = datagram;
    wire::store_be(forged.data() + 4, spi);
    ASSERT_FALSE(worker->open(forged, out.data()));
  }
  counting.key_blocks = 0;
  ASSERT_TRUE(worker->open(datagram, out.data()));
  EXPECT_EQ(counting.key_blocks, o.rx_cache_entries == 0 ? 1 : 0);
}

TEST_P(EngineTest, OneSpiHasAKeyForEachVersion) {
  // The device hands an SPI out for one version; a cache must tell versions apart all the same.
  auto o = options();
  const Octets device_key(32, 0x21);
  o.random = [](std::span<std::uint8_t> bytes) { std::ranges::fill(bytes, 0x21); };
  SoftwareDriver known(o);
  known.enable(VersionSet::all());
  const auto worker = known.make_engine();
  const auto kdf = backend().make_kdf(crypto::DeviceKey(device_key));
  for (int round = 0; round < 3; ++round)
    for (const Version version : test::kAllVersions) {
      crypto::SaKey key;
      kdf->derive(version, Spi{5}, key);
      const Octets datagram = test::seal(backend(), Spi{5}, key.span(), {.version = version});
      out.resize(datagram.size());
      EXPECT_TRUE(worker->open(datagram, out.data()));
    }
}

TEST_P(EngineTest, TxSessionSealsForThePeer) {
  for (const Version version : test::kAllVersions) {
    const RxKey rx = alloc(version);  // the peer's, here the same device
    const auto handle = driver.tx_key_add(version, rx.spi, rx.key.span()).value();
    const auto session = engine->tx_begin(handle);
    ASSERT_TRUE(session);
    EXPECT_EQ(session->version, version);
    EXPECT_EQ(session->spi, rx.spi);
    EXPECT_FALSE(session->has_clear_boundary);
    wire::PspHeader header;
    header.version_number = static_cast<std::uint8_t>(version);
    header.spi = session->spi;
    header.iv = engine->reserve_ivs(1);
    const Octets inner = test::pattern(50);
    Octets datagram(header.size() + inner.size() + kIcv);
    wire::write_header(datagram, header);
    crypto::seal_datagram(*session->aead, session->version, datagram, header.size(), inner);
    const auto meta = open(datagram);
    ASSERT_TRUE(meta);
    EXPECT_TRUE(std::ranges::equal(out, inner));
  }
}

TEST_P(EngineTest, TxSessionsOfCollidingHandlesKeepTheirKeys) {
  // Two cache entries, four keys: every second tx_begin loads a key anew.
  std::vector<RxKey> keys;
  std::vector<std::uint32_t> handles;
  for (int i = 0; i < 4; ++i) {
    keys.push_back(alloc());
    handles.push_back(
        driver.tx_key_add(Version::kAesGcm128, keys.back().spi, keys.back().key.span()).value());
  }
  const Octets inner = test::pattern(20);
  for (const std::size_t i : {0, 2, 0, 0, 1, 3, 2, 3, 1, 0}) {
    const auto session = engine->tx_begin(handles[i]);
    ASSERT_TRUE(session);
    EXPECT_EQ(session->spi, keys[i].spi);
    const Octets expected = seal(keys[i], {.inner = inner});
    Octets datagram(expected);
    std::ranges::fill(std::span(datagram).subspan(16), 0);
    crypto::seal_datagram(*session->aead, session->version, datagram, 16, inner);
    EXPECT_EQ(datagram, expected) << i;
  }
}

TEST_P(EngineTest, DeletedTxKeyFailsAtOnce) {
  const RxKey rx = alloc();
  const auto handle = driver.tx_key_add(Version::kAesGcm128, rx.spi, rx.key.span()).value();
  ASSERT_TRUE(engine->tx_begin(handle));
  ASSERT_TRUE(engine->tx_begin(handle));
  driver.tx_key_del(handle);
  for (int i = 0; i < 2; ++i) {
    const auto refused = engine->tx_begin(handle);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error(), Drop::TX_NO_ASSOC);
    engine->refresh();
  }
  EXPECT_FALSE(engine->tx_begin(0));
  EXPECT_FALSE(engine->tx_begin(0xffff'ffff));
  EXPECT_EQ(stats().tx_error, 4u);
  EXPECT_EQ(dropped(Drop::TX_NO_ASSOC), 4u);
}

TEST_P(EngineTest, RefreshKeepsLiveTxKeys) {
  const RxKey rx = alloc();
  const auto handle = driver.tx_key_add(Version::kAesGcm128, rx.spi, rx.key.span()).value();
  ASSERT_TRUE(engine->tx_begin(handle));
  engine->refresh();
  const auto session = engine->tx_begin(handle);
  ASSERT_TRUE(session);
  const Octets expected = seal(rx, {});
  Octets datagram(expected);
  crypto::seal_datagram(*session->aead, session->version, datagram, 16, test::pattern(100));
  EXPECT_EQ(datagram, expected);
}

TEST_P(EngineTest, ClearBoundaryReachesACachedSession) {
  const RxKey rx = alloc();
  const auto handle = driver.tx_key_add(Version::kAesGcm128, rx.spi, rx.key.span()).value();
  ASSERT_TRUE(engine->tx_begin(handle));
  driver.set_clear_boundary(handle, 0xffff'fff0);
  const auto session = engine->tx_begin(handle);
  ASSERT_TRUE(session);
  EXPECT_TRUE(session->has_clear_boundary);
  EXPECT_EQ(session->clear_boundary, 0xffff'fff0u);
}

TEST_P(EngineTest, EveryDropReasonGoesToItsCounter) {
  // Written out again from section 8 of the PSP specification, not from drop.h.
  const DriverStats error{.rx_error = 1}, bad{.rx_bad = 1}, auth{.rx_auth_fail = 1},
      tx{.tx_error = 1}, none{};
  const std::pair<Drop, DriverStats> expected[] = {
      {Drop::TRUNCATED, error},   {Drop::BAD_IP, error},           {Drop::BAD_LENGTH, error},
      {Drop::BAD_HEADER, error},  {Drop::BAD_CRYPT_OFFSET, error}, {Drop::BAD_VERSION, bad},
      {Drop::BAD_SPI, bad},       {Drop::AUTH_FAIL, auth},         {Drop::VERSION_DISABLED, bad},
      {Drop::BAD_INNER, error},   {Drop::FRAGMENT, error},         {Drop::TX_NO_ASSOC, tx},
      {Drop::TX_BAD_PACKET, tx},  {Drop::TX_TOO_BIG, tx},          {Drop::TX_WRITE, tx},
      {Drop::POLICY_CLEAR, none}, {Drop::POLICY_MISMATCH, none},   {Drop::POLICY_NO_ASSOC, none},
      {Drop::POLICY_ROUTE, none}, {Drop::POLICY_EPOCH, none},      {Drop::POLICY_FORGED, none},
      {Drop::RX_WRITE, error},    {Drop::BAD_ECN, error},          {Drop::SAMPLED, none},
      {Drop::STALE_KEY, bad},     {Drop::UNKNOWN_KEY, bad},
  };
  for (const auto& [reason, one] : expected) {
    SoftwareDriver fresh(options());
    const auto worker = fresh.make_engine();
    worker->count_drop(reason);
    EXPECT_EQ(fresh.get_stats(), one) << name(reason);
    auto drops = fresh.drops();
    EXPECT_EQ(drops[static_cast<std::size_t>(reason)], 1u);
    drops[static_cast<std::size_t>(reason)] = 0;
    EXPECT_EQ(drops, (std::array<std::uint64_t, PSP_DROP_MAX>{}));
  }
}

TEST_P(EngineTest, StatsOutliveTheirEngines) {
  const RxKey rx = alloc();
  auto other = driver.make_engine();
  other->count_tx(3, 300);
  other->count_drop(Drop::TX_TOO_BIG);
  ASSERT_TRUE(open_sealed(rx));
  const DriverStats expected{
      .rx_packets = 1, .rx_bytes = 100, .tx_packets = 3, .tx_bytes = 300, .tx_error = 1};
  EXPECT_EQ(stats(), expected);
  other.reset();
  EXPECT_EQ(stats(), expected);
  engine.reset();
  EXPECT_EQ(stats(), expected);
  EXPECT_EQ(dropped(Drop::TX_TOO_BIG), 1u);
  driver.make_engine()->count_tx(1, 1);
  EXPECT_EQ(stats().tx_packets, 4u);
}

TEST_P(EngineTest, IvsOfTwoEnginesDoNotMeet) {
  const auto other = driver.make_engine();
  const auto a = engine->reserve_ivs(10);
  const auto b = other->reserve_ivs(10);
  const auto c = engine->reserve_ivs(10);
  EXPECT_GE(b, a + 10);
  EXPECT_GE(c, b + 10);
}

TEST_P(EngineTest, BackendsUnderstandEachOther) {
  for (const crypto::Backend* sender : test::backends())
    for (const Version version : test::kAllVersions) {
      const RxKey rx = alloc(version);
      EXPECT_TRUE(open(test::seal(*sender, rx.spi, rx.key.span(), {.version = version})));
    }
}

TEST_P(EngineTest, WorkersFollowARotatingControlThread) {
  // Packets of the active key always open, those of twice-rotated keys never, once the rotation has
  // returned. The control thread publishes (datagram, rotations) pairs; workers judge by rotations.
  constexpr int kRotations = 60;
  std::vector<Octets> datagrams;
  std::atomic<int> ready{-1};     // datagrams[0..ready] may be read
  std::atomic<int> rotations{0};  // completed
  std::atomic<int> wrong{0}, opened{0};
  datagrams.reserve(kRotations + 1);
  const auto work = [&] {
    const auto worker = driver.make_engine();
    Octets buffer(256);
    while (rotations.load(std::memory_order_acquire) < kRotations) {
      const int last = ready.load(std::memory_order_acquire);
      for (int i = std::max(0, last - 3); i <= last; ++i) {
        const int before = rotations.load(std::memory_order_acquire);
        const bool good =
            worker->open(datagrams[static_cast<std::size_t>(i)], buffer.data()).has_value();
        const int started =
            ready.load(std::memory_order_acquire) + 1;  // a rotation may be going on
        if (good && before - i >= 2) ++wrong;
        if (!good && started - i < 2) ++wrong;
        opened += good;
      }
    }
  };
  {
    std::jthread a(work), b(work);
    for (int i = 0; i < kRotations; ++i) {
      const RxKey rx = alloc();
      datagrams.push_back(seal(rx, {}));
      ready.store(i, std::memory_order_release);
      const int before = opened.load();
      while (opened.load() < before + 4 && wrong.load() == 0) std::this_thread::yield();
      driver.key_rotate(static_cast<std::uint8_t>((i + 1) & 0x7f));
      rotations.store(i + 1, std::memory_order_release);
    }
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(opened, 0);
}

TEST_P(EngineTest, WorkersNeverSealWithAnotherConnectionsKey) {
  // Every key is all octets equal to its SPI; the AEAD in a session must fit the session's SPI.
  constexpr int kRounds = 3000;
  std::array<std::atomic<std::uint32_t>, 4> handles{};
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0}, sealed{0};
  const auto work = [&] {
    const auto worker = driver.make_engine();
    const auto check = backend().make_aead();
    const std::array<std::uint8_t, 12> nonce{};
    const std::array<std::uint8_t, 16> text{};
    std::array<std::uint8_t, 16> a, b, icv;
    while (!stop.load(std::memory_order_relaxed))
      for (auto& shared : handles) {
        const auto session = worker->tx_begin(shared.load(std::memory_order_acquire));
        if (!session) continue;
        Octets key(16, static_cast<std::uint8_t>(session->spi.value));
        check->rekey(Version::kAesGcm128, key);
        check->seal(nonce.data(), {}, text, a.data(), icv.data());
        session->aead->seal(nonce.data(), {}, text, b.data(), icv.data());
        if (a != b) ++wrong;
        ++sealed;
      }
  };
  {
    std::jthread a(work), b(work);
    for (int round = 1; round <= kRounds || sealed < 100; ++round) {
      auto& shared = handles[static_cast<std::size_t>(round) % handles.size()];
      const std::uint32_t old = shared.load();
      const Octets key(16, static_cast<std::uint8_t>(round));
      shared.store(
          driver.tx_key_add(Version::kAesGcm128, Spi{static_cast<std::uint32_t>(round)}, key)
              .value(),
          std::memory_order_release);
      driver.tx_key_del(old);
      (void)stats();
    }
    stop = true;
  }
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace psp::device
