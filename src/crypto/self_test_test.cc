// SPDX-License-Identifier: Apache-2.0
//
// The self-test passes for the real backends and finds each way in which a backend can be wrong:
// each test breaks one thing of a real backend, and the self-test has to name it. The broken ones
// are OpenSSL's with one fault each, among them faults that packets between two equal hosts would
// never show. The known answers themselves, and where they are from, are in self_test.cc.
#include <algorithm>
#include <functional>
#include <gtest/gtest.h>

#include "crypto/aead.hh"

#include "test_support.hh"

namespace psp::crypto {
namespace {

// Fault is one thing that a broken backend does wrong.
enum class Fault {
  kNone,
  kWrongCiphertext,
  kWrongIcv,
  kOpensAnything,
  kOpensAnythingEmpty,  // does not look at the ICV if there is nothing to decrypt
  kComparesHalfTheIcv,
  kIgnoresAad,
  kRefusesEverything,
  kDoesNotWipe,
  kWrongCmac,
  kMixesUpKeySizes,
};

// BrokenAead is OpenSSL's with one fault.
class BrokenAead final : public Aead {
 public:
  explicit BrokenAead(Fault fault) : fault_(fault), right_(openssl_backend().make_aead()) {}

  void rekey(Version version, std::span<const std::uint8_t> key) override {
    if (fault_ == Fault::kMixesUpKeySizes && key.size() == 32)
      right_->rekey(Version::kAesGcm128, key.first(16));
    else
      right_->rekey(version, key);
  }

  void seal(const std::uint8_t* nonce, std::span<const std::uint8_t> aad,
            std::span<const std::uint8_t> in, std::uint8_t* out, std::uint8_t* icv) override {
    right_->seal(nonce, fault_ == Fault::kIgnoresAad ? aad.first(0) : aad, in, out, icv);
    if (fault_ == Fault::kWrongCiphertext && !in.empty()) out[in.size() - 1] ^= 1;
    if (fault_ == Fault::kWrongIcv) icv[15] ^= 1;
  }

  bool open(const std::uint8_t* nonce, std::span<const std::uint8_t> aad,
            std::span<const std::uint8_t> in, std::uint8_t* out, const std::uint8_t* icv) override {
    const bool right = right_->open(nonce, aad, in, out, icv);
    switch (fault_) {
      case Fault::kOpensAnything:
        return true;
      case Fault::kOpensAnythingEmpty:
        return right || in.empty();
      case Fault::kComparesHalfTheIcv:
        return right || half_matches(nonce, aad, icv);
      case Fault::kRefusesEverything:
        return false;
      case Fault::kDoesNotWipe:
        if (!right) std::fill_n(out, in.size(), std::uint8_t{1});
        return right;
      default:
        return right;
    }
  }

 private:
  // half_matches is a comparison of 8 octets, for an empty text.
  bool half_matches(const std::uint8_t* nonce, std::span<const std::uint8_t> aad,
                    const std::uint8_t* icv) {
    std::array<std::uint8_t, kIcv> own;
    right_->seal(nonce, aad, {}, nullptr, own.data());
    return std::equal(own.begin(), own.begin() + 8, icv);
  }

  Fault fault_;
  std::unique_ptr<Aead> right_;
};

class BrokenKdf final : public Kdf {
 public:
  explicit BrokenKdf(const DeviceKey& key) : right_(openssl_backend().make_kdf(key)) {}
  void cmac_block(const std::uint8_t* block, std::uint8_t* mac) const override {
    right_->cmac_block(block, mac);
    mac[0] ^= 1;
  }

 private:
  std::unique_ptr<Kdf> right_;
};

class BrokenBackend final : public Backend {
 public:
  explicit BrokenBackend(Fault fault) : fault_(fault) {}
  std::string_view name() const override { return "broken"; }
  std::string description() const override { return "broken"; }
  std::unique_ptr<Aead> make_aead() const override { return std::make_unique<BrokenAead>(fault_); }
  std::unique_ptr<Kdf> make_kdf(const DeviceKey& key) const override {
    if (fault_ == Fault::kWrongCmac) return std::make_unique<BrokenKdf>(key);
    return openssl_backend().make_kdf(key);
  }

 private:
  Fault fault_;
};

TEST(SelfTest, PassesForEveryBackend) {
  for (const Backend* backend : test::backends())
    EXPECT_EQ(self_test(*backend), std::nullopt) << backend->description();
}

TEST(SelfTest, PassesForTheWrapperWithoutFault) {
  EXPECT_EQ(self_test(BrokenBackend(Fault::kNone)), std::nullopt);
}

TEST(SelfTest, NamesWhatIsBroken) {
  const auto failure = [](Fault fault) {
    return self_test(BrokenBackend(fault)).value_or("nothing found");
  };
  EXPECT_EQ(failure(Fault::kWrongCiphertext), "AES-128-GCM, one block: sealed wrong");
  EXPECT_EQ(failure(Fault::kWrongIcv), "AES-128-GCM, one block: wrong ICV");
  EXPECT_EQ(failure(Fault::kOpensAnything), "AES-128-GCM, one block: wrong ICV accepted");
  EXPECT_EQ(failure(Fault::kOpensAnythingEmpty), "AES-128-GMAC: wrong ICV accepted");
  EXPECT_EQ(failure(Fault::kComparesHalfTheIcv), "AES-128-GMAC: wrong ICV accepted");
  EXPECT_EQ(failure(Fault::kIgnoresAad), "AES-128-GCM: wrong ICV");
  EXPECT_EQ(failure(Fault::kRefusesEverything), "AES-128-GCM, one block: right ICV refused");
  EXPECT_EQ(failure(Fault::kDoesNotWipe),
            "AES-128-GCM, one block: wrong ICV rejected, but its output was not wiped");
  EXPECT_EQ(failure(Fault::kWrongCmac), "AES-256-CMAC: wrong result");
  EXPECT_EQ(failure(Fault::kMixesUpKeySizes), "AES-256-GCM, one block: sealed wrong");
}

}  // namespace
}  // namespace psp::crypto
