// SPDX-License-Identifier: Apache-2.0
//
// The control half of the software driver: device keys, SPIs, rotation, and memory, which must not
// grow with the number of connections. The packets of the tests are sealed by a peer that is not
// the driver.
#include "device/software_driver.hh"

#include <algorithm>
#include <array>
#include <cerrno>
#include <gtest/gtest.h>
#include <malloc.h>
#include <set>
#include <vector>

#include "driver_test_support.hh"

namespace psp::device {
namespace {

using test::Octets;

class SoftwareDriverTest : public testing::TestWithParam<const crypto::Backend*> {
 protected:
  const crypto::Backend& backend() const { return *GetParam(); }
  SoftwareDriverOptions options() {
    SoftwareDriverOptions o;
    o.backend = &backend();
    o.ivs = &ivs;
    return o;
  }
  IvAllocator ivs{[] { return std::uint64_t{1}; }};
};
INSTANTIATE_TEST_SUITE_P(All, SoftwareDriverTest, testing::ValuesIn(test::backends()),
                         [](const auto& p) { return test::backend_name(p.param); });

bool same(const crypto::SaKey& a, const crypto::SaKey& b) {
  return std::ranges::equal(a.span(), b.span());
}

TEST_P(SoftwareDriverTest, GivesAKeyForAPacketThatItAuthenticatesAndForNoOther) {
  SoftwareDriver driver(options());
  const auto rx = driver.rx_spi_alloc(Version::kAesGcm128);
  ASSERT_TRUE(rx);
  Octets packet = test::seal(backend(), rx->spi, rx->key.span(), {});
  const auto found = driver.rx_key_of(packet);
  ASSERT_TRUE(found);
  EXPECT_TRUE(same(*found, rx->key));
  const Octets good = packet;
  packet.back() ^= 1;
  EXPECT_FALSE(driver.rx_key_of(packet)) << "another ICV";
  EXPECT_FALSE(driver.rx_key_of(std::span(good).first(31))) << "no PSP packet";

  const Octets key = test::pattern(16), other(16);
  const auto handle = driver.tx_key_add(Version::kAesGcm128, Spi{5}, key);
  ASSERT_TRUE(handle);
  const auto tx = driver.tx_key_of(*handle, test::seal(backend(), Spi{5}, key, {}));
  ASSERT_TRUE(tx);
  EXPECT_TRUE(std::ranges::equal(tx->span(), key));
  EXPECT_FALSE(driver.tx_key_of(*handle, test::seal(backend(), Spi{5}, other, {})));
  EXPECT_FALSE(driver.tx_key_of(*handle, test::seal(backend(), Spi{6}, key, {})));
  driver.tx_key_del(*handle);
  EXPECT_FALSE(driver.tx_key_of(*handle, test::seal(backend(), Spi{5}, key, {})));
  driver.key_rotate(1);
  EXPECT_TRUE(driver.rx_key_of(good)) << "the previous device key still opens";
  driver.key_rotate(2);
  EXPECT_FALSE(driver.rx_key_of(good));
}

TEST_P(SoftwareDriverTest, DerivesSaKeysFromFreshRandomDeviceKeys) {
  std::vector<Octets> drawn;
  auto o = options();
  o.random = [&drawn](std::span<std::uint8_t> out) {
    crypto::random_bytes(out);
    if (out.size() == 32) drawn.emplace_back(out.begin(), out.end());  // else where SPIs begin
  };
  SoftwareDriver driver(o);
  ASSERT_EQ(drawn.size(), 2u) << "two device keys at start";
  std::size_t active = 0;
  for (const unsigned phase : {0u, 1u, 0u, 1u}) {
    const auto kdf = backend().make_kdf(crypto::DeviceKey(drawn[active]));
    for (const Version version : test::kAllVersions) {
      const auto rx = driver.rx_spi_alloc(version);
      ASSERT_TRUE(rx);
      EXPECT_EQ(rx->spi.phase(), phase);
      EXPECT_EQ(rx->key.size(), key_size(version));
      crypto::SaKey expected;
      kdf->derive(version, rx->spi, expected);
      EXPECT_TRUE(same(rx->key, expected));
    }
    driver.key_rotate(1);
    active = drawn.size() - 1;  // a rotation draws one key, for the other phase
  }
  EXPECT_EQ(drawn.size(), 6u) << "one new device key for each rotation";
}

TEST_P(SoftwareDriverTest, NoTwoInstancesShareAKey) {
  SoftwareDriver a(options()), b(options());
  const auto ra = a.rx_spi_alloc(Version::kAesGcm128);
  const auto rb = b.rx_spi_alloc(Version::kAesGcm128);
  EXPECT_FALSE(same(ra->key, rb->key));
}

TEST_P(SoftwareDriverTest, RotationGivesFreshSpiSpaceAndOtherKeys) {
  auto o = options();
  o.spis_of_a_key = 2;
  SoftwareDriver driver(o);
  std::set<Octets> keys;
  for (int rotation = 0; rotation < 4; ++rotation) {
    EXPECT_EQ(driver.spi_remaining(), 2u);
    for (int i = 0; i < 2; ++i) {
      const auto rx = driver.rx_spi_alloc(Version::kAesGcm128);
      ASSERT_TRUE(rx);
      EXPECT_TRUE(keys.emplace(rx->key.span().begin(), rx->key.span().end()).second)
          << "same key again";
    }
    for (int i = 0; i < 2; ++i) {
      const auto refused = driver.rx_spi_alloc(Version::kAesGcm128);
      ASSERT_FALSE(refused);
      EXPECT_EQ(refused.error().sys_errno, ENOSPC);
      EXPECT_STREQ(refused.error().text, "SPI space exhausted");
    }
    EXPECT_EQ(driver.key_rotate(static_cast<std::uint8_t>(rotation + 1)), rotation + 1);
  }
}

TEST_P(SoftwareDriverTest, GenerationIsAtMostSevenBits) {
  SoftwareDriver driver(options());
  EXPECT_EQ(driver.key_rotate(0x7f), 0x7f);
  EXPECT_EQ(driver.key_rotate(0x80), 0);
}

TEST_P(SoftwareDriverTest, TwiceRotatedDeviceKeysAreDestroyed) {
  const test::CountingBackend counting(backend());
  auto o = options();
  o.backend = &counting;
  SoftwareDriver driver(o);
  EXPECT_EQ(counting.device_keys, 2);
  const auto engine = driver.make_engine();
  engine->refresh();
  for (int i = 0; i < 3; ++i) driver.key_rotate(1);
  engine->refresh();  // an idle worker lets go of them here
  EXPECT_EQ(counting.device_keys, 2);
}

TEST_P(SoftwareDriverTest, RefusesTxKeysOfTheWrongLength) {
  SoftwareDriver driver(options());
  const Octets key(32);
  for (const Version version : test::kAllVersions)
    for (const std::size_t size : {0, 15, 16, 17, 31, 32}) {
      const auto handle = driver.tx_key_add(version, Spi{1}, std::span(key).first(size));
      ASSERT_EQ(handle.has_value(), size == key_size(version)) << size;
      if (handle) {
        EXPECT_NE(*handle, 0u);
        driver.tx_key_del(*handle);
      } else {
        EXPECT_EQ(handle.error().sys_errno, EINVAL);
      }
    }
}

#ifdef PSP_SANITIZED
constexpr bool kHeapIsMeasurable = false;
#else
constexpr bool kHeapIsMeasurable = true;
#endif

TEST_P(SoftwareDriverTest, ReceiveStateDoesNotGrowWithSpis) {
  SoftwareDriver driver(options());
  const auto engine = driver.make_engine();
  const auto open_one = [&] {
    const auto rx = driver.rx_spi_alloc(Version::kAesGcm128);
    const Octets datagram = test::seal(backend(), rx->spi, rx->key.span(), {});
    Octets out(datagram.size());
    return engine->open(datagram, out.data()).has_value();
  };
  driver.enable(VersionSet::all());
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(open_one());
  const std::size_t octets = driver.rx_state_octets();
  const std::size_t heap = mallinfo2().uordblks;
  EXPECT_GT(octets, 256 * sizeof(void*)) << "the cache is part of it";
  for (int i = 0; i < 100'000; ++i) ASSERT_TRUE(driver.rx_spi_alloc(Version::kAesGcm128));
  for (int i = 0; i < 1'000; ++i) ASSERT_TRUE(open_one());
  EXPECT_EQ(driver.rx_state_octets(), octets);
  if (!kHeapIsMeasurable) return;  // a sanitizer's allocator does not report its size
  EXPECT_LT(mallinfo2().uordblks, heap + 4096);
}

TEST_P(SoftwareDriverTest, ReceiveStateIsThatOfItsEngines) {
  auto o = options();
  o.rx_cache_entries = 100;  // rounded up to 128
  SoftwareDriver driver(o);
  const std::size_t none = driver.rx_state_octets();
  std::size_t one = 0;
  {
    const auto a = driver.make_engine();
    one = driver.rx_state_octets() - none;
    EXPECT_GT(one, 128 * sizeof(void*));
    const auto b = driver.make_engine();
    EXPECT_EQ(driver.rx_state_octets(), none + 2 * one);
  }
  EXPECT_EQ(driver.rx_state_octets(), none);
}

}  // namespace
}  // namespace psp::device
