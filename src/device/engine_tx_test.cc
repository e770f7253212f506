// SPDX-License-Identifier: Apache-2.0
//
// The engine sends, counts and is one of many: Tx sessions, statistics, IVs, and engines under a
// control thread that rotates and deletes.
//
// Threading: the last tests start threads of their own; run under ThreadSanitizer too.
#include <array>
#include <atomic>
#include <string>
#include <thread>

#include "wire/bytes.hh"

#include "engine_fixture.hh"

namespace psp::device {
namespace {

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
  // Written out again from the specification's counters (docs/protocol.md, section 8), not from
  // drop.h.
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
