// SPDX-License-Identifier: Apache-2.0
//
// The backends one by one (known answers, what they promise about memory and keys) and against each
// other. Whatever OpenSSL and ipsec-mb are given, they must seal and derive the same, and each must
// open what the other sealed: where both are built, each is the other's oracle. Buffers end at a
// page that must not be touched, so that one octet too far ends the program. The known answers of
// the self-test are not repeated here. Timing is not looked at.
#include <algorithm>
#include <array>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

#include "crypto/aead.hh"
#include "wire/bytes.hh"

#include "test_support.hh"

namespace psp::crypto {
namespace {

using test::from_hex;
using test::Octets;
using test::pattern;

// GuardedOctets is memory that ends where the next page must not be touched.
class GuardedOctets {
 public:
  explicit GuardedOctets(std::span<const std::uint8_t> content) : size_(content.size()) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    usable_ = (size_ / page + 1) * page;
    length_ = usable_ + page;
    map_ = mmap(nullptr, length_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map_ == MAP_FAILED) std::abort();
    if (mprotect(base() + usable_, page, PROT_NONE) != 0) std::abort();
    std::ranges::copy(content, data());
  }
  ~GuardedOctets() { munmap(map_, length_); }
  GuardedOctets(const GuardedOctets&) = delete;
  GuardedOctets& operator=(const GuardedOctets&) = delete;

  std::uint8_t* data() { return base() + usable_ - size_; }
  std::span<std::uint8_t> span() { return {data(), size_}; }

 private:
  std::uint8_t* base() { return static_cast<std::uint8_t*>(map_); }
  std::size_t size_;
  std::size_t usable_ = 0;
  std::size_t length_ = 0;
  void* map_ = nullptr;
};

class BackendTest : public testing::TestWithParam<const Backend*> {
 protected:
  const Backend& backend_ = *GetParam();
  std::unique_ptr<Aead> aead_ = backend_.make_aead();
};
INSTANTIATE_TEST_SUITE_P(All, BackendTest, testing::ValuesIn(test::backends()), test::backend_name);

TEST_P(BackendTest, IsFoundByItsName) {
  EXPECT_EQ(find_backend(backend_.name()), &backend_);
  EXPECT_FALSE(backend_.description().empty());
}

TEST_P(BackendTest, DerivesWithTheLabelAndLengthOfTheVersion) {
  // The blocks as SP 800-108 and the PSP specification spell them, put together by hand.
  const auto kdf = backend_.make_kdf(DeviceKey(pattern(32)));
  constexpr const char* blocks[kVersions][2] = {
      {"0000000150763000deadbeef00000080", nullptr},
      {"0000000150763100deadbeef00000100", "0000000250763100deadbeef00000100"},
      {"0000000150763200deadbeef00000080", nullptr},
      {"0000000150763300deadbeef00000100", "0000000250763300deadbeef00000100"}};
  for (unsigned version = 0; version < kVersions; ++version) {
    Octets expected(32);
    kdf->cmac_block(from_hex(blocks[version][0]).data(), expected.data());
    if (blocks[version][1])
      kdf->cmac_block(from_hex(blocks[version][1]).data(), expected.data() + 16);
    else
      expected.resize(16);
    SaKey key(pattern(32));  // what was there before does not matter
    kdf->derive(*to_version(version), {0xdeadbeef}, key);
    EXPECT_TRUE(constant_time_equal(key.span(), expected)) << version;
  }
}

TEST_P(BackendTest, DerivesInManyThreadsAtOnce) {
  const auto kdf = backend_.make_kdf(DeviceKey(pattern(32)));
  constexpr std::uint32_t kSpis = 500;
  std::vector<SaKey> expected(kSpis);
  for (std::uint32_t spi = 0; spi < kSpis; ++spi)
    kdf->derive(Version::kAesGcm256, {spi}, expected[spi]);
  std::array<unsigned, 12> wrong{};  // more threads than the OpenSSL backend has contexts
  {
    std::vector<std::jthread> threads;
    for (unsigned& count : wrong)
      threads.emplace_back([&] {
        SaKey key;
        for (std::uint32_t spi = 0; spi < kSpis; ++spi) {
          kdf->derive(Version::kAesGcm256, {spi}, key);
          count += !constant_time_equal(key.span(), expected[spi].span());
        }
      });
  }
  EXPECT_EQ(std::ranges::count(wrong, 0u), std::ssize(wrong));
}

TEST_P(BackendTest, SealsManyPacketsUnderOneKeyAndAfterEachChangeOfKey) {
  const auto other = openssl_backend().make_aead();
  const Octets aad = pattern(16);
  const Octets plain = pattern(100);
  for (unsigned round = 0; round < 24; ++round) {
    const Version version = *to_version(round * 5 % kVersions);
    const Octets key = pattern(key_size(version), round);
    aead_->rekey(version, key);
    for (unsigned packet = 0; packet < 3; ++packet) {
      const Octets nonce = pattern(kNonce, 100 + packet);
      Octets sealed(100), expected(100), icv(kIcv), expected_icv(kIcv);
      aead_->seal(nonce.data(), aad, plain, sealed.data(), icv.data());
      other->rekey(version, key);
      other->seal(nonce.data(), aad, plain, expected.data(), expected_icv.data());
      ASSERT_EQ(sealed, expected) << round << " " << packet;
      ASSERT_EQ(icv, expected_icv) << round << " " << packet;
      Octets opened(100);
      ASSERT_TRUE(aead_->open(nonce.data(), aad, sealed, opened.data(), icv.data()));
      ASSERT_EQ(opened, plain);
    }
  }
}

TEST_P(BackendTest, GoesOnAfterARefusedPacket) {
  aead_->rekey(Version::kAesGcm128, pattern(16));
  const Octets nonce = pattern(kNonce), aad = pattern(16), plain = pattern(64);
  Octets sealed(64), opened(64), icv(kIcv);
  aead_->seal(nonce.data(), aad, plain, sealed.data(), icv.data());
  for (int i = 0; i < 3; ++i) {
    icv[0] ^= 1;
    EXPECT_FALSE(aead_->open(nonce.data(), aad, sealed, opened.data(), icv.data()));
    icv[0] ^= 1;
    EXPECT_TRUE(aead_->open(nonce.data(), aad, sealed, opened.data(), icv.data()));
    EXPECT_EQ(opened, plain);
  }
}

TEST_P(BackendTest, ChecksTheIcvOfAnEmptyText) {
  aead_->rekey(Version::kAesGcm256, pattern(32));
  const Octets nonce = pattern(kNonce), aad = pattern(24);
  Octets icv(kIcv);
  aead_->seal(nonce.data(), aad, {}, nullptr, icv.data());
  EXPECT_TRUE(aead_->open(nonce.data(), aad, {}, nullptr, icv.data()));
  for (std::size_t bit = 0; bit < 8 * kIcv; ++bit) {
    Octets wrong = icv;
    wrong[bit / 8] ^= static_cast<std::uint8_t>(1u << bit % 8);
    EXPECT_FALSE(aead_->open(nonce.data(), aad, {}, nullptr, wrong.data())) << bit;
  }
}

TEST_P(BackendTest, TouchesNothingBehindItsBuffers) {
  // A read or write one octet too far ends the program here.
  for (const Version version : {Version::kAesGcm128, Version::kAesGmac256}) {
    const Octets key = pattern(key_size(version));
    GuardedOctets guarded_key(key);
    aead_->rekey(version, guarded_key.span());
    for (std::size_t size = 0; size <= 300; ++size) {
      GuardedOctets nonce(pattern(kNonce));
      GuardedOctets aad(pattern(16 + size % 40));
      GuardedOctets in(pattern(size));
      GuardedOctets out(Octets(size, 0));
      GuardedOctets back(Octets(size, 0));
      GuardedOctets icv(Octets(kIcv, 0));
      aead_->seal(nonce.data(), aad.span(), in.span(), out.data(), icv.data());
      ASSERT_TRUE(aead_->open(nonce.data(), aad.span(), out.span(), back.data(), icv.data()));
      ASSERT_TRUE(std::ranges::equal(in.span(), back.span())) << size;
    }
  }
}

TEST(FindBackend, PrefersIpsecMbWhereItIs) {
  EXPECT_EQ(find_backend("auto"), ipsec_mb_backend() ? ipsec_mb_backend() : &openssl_backend());
  EXPECT_EQ(find_backend("openssl"), &openssl_backend());
  EXPECT_EQ(find_backend("ipsec-mb"), ipsec_mb_backend());
}

TEST(FindBackend, FindsNothingElse) {
  EXPECT_EQ(find_backend(""), nullptr);
  EXPECT_EQ(find_backend("OpenSSL"), nullptr);
  EXPECT_EQ(find_backend("wolfssl"), nullptr);
}

RC_GTEST_PROP(BackendProperty, BackendsDeriveAlike, ()) {
  if (!ipsec_mb_backend()) RC_SUCCEED("one backend only");
  const DeviceKey key(*rc::gen::container<Octets>(32, rc::gen::arbitrary<std::uint8_t>()));
  const Octets block = *rc::gen::container<Octets>(16, rc::gen::arbitrary<std::uint8_t>());
  Octets one(16), two(16);
  openssl_backend().make_kdf(key)->cmac_block(block.data(), one.data());
  ipsec_mb_backend()->make_kdf(key)->cmac_block(block.data(), two.data());
  RC_ASSERT(one == two);
}

RC_GTEST_PROP(BackendProperty, BackendsSealAlikeAndOpenEachOther, ()) {
  if (!ipsec_mb_backend()) RC_SUCCEED("one backend only");
  const auto one = openssl_backend().make_aead();
  const auto two = ipsec_mb_backend()->make_aead();
  const Version version = *to_version(*rc::gen::inRange(0u, 4u));
  const Octets key = *rc::gen::container<Octets>(key_size(version), rc::gen::arbitrary<uint8_t>());
  const Octets nonce = *rc::gen::container<Octets>(kNonce, rc::gen::arbitrary<std::uint8_t>());
  const Octets aad = pattern(*rc::gen::inRange<std::size_t>(0, 2100));
  const Octets plain = pattern(*rc::gen::inRange<std::size_t>(0, 2001), 9);
  one->rekey(version, key);
  two->rekey(version, key);

  Octets sealed_one(plain.size()), sealed_two(plain), icv_one(kIcv), icv_two(kIcv);
  one->seal(nonce.data(), aad, plain, sealed_one.data(), icv_one.data());
  two->seal(nonce.data(), aad, sealed_two, sealed_two.data(), icv_two.data());  // in place
  RC_ASSERT(sealed_one == sealed_two);
  RC_ASSERT(icv_one == icv_two);

  Octets opened(plain.size());
  RC_ASSERT(one->open(nonce.data(), aad, sealed_two, opened.data(), icv_two.data()));
  RC_ASSERT(opened == plain);
  RC_ASSERT(two->open(nonce.data(), aad, sealed_one, sealed_one.data(), icv_one.data()));
  RC_ASSERT(sealed_one == plain);
}

}  // namespace
}  // namespace psp::crypto
