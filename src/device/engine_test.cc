// SPDX-License-Identifier: Apache-2.0
//
// The engine receives: what opens, what is dropped and how it is counted, and which keys do when.
// Everything is tried with each backend and each kind of Rx cache, which must make no difference
// but in the number of derivations. Packets are sealed by a peer that has only what rx_spi_alloc
// gave out. Sending, and keys that change while workers use them: engine_tx_test.cc.
#include <array>
#include <atomic>
#include <string>
#include <thread>

#include "wire/bytes.hh"

#include "engine_fixture.hh"

namespace psp::device {
namespace {

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

}  // namespace
}  // namespace psp::device
