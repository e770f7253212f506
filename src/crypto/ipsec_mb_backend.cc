// SPDX-License-Identifier: Apache-2.0
//
// The fast backend: ipsec-mb by its direct calls (one packet, one call, no job queue). The library
// picks its code for the processor when the manager is made.
//
// Threading: the manager is made once and never written again; the direct calls only read function
// pointers from it and keep everything in the key and context structures, which each Aead owns.
// (The library's job interface would need a manager per thread.) A Kdf is constant after
// construction.
#include <array>
#include <immintrin.h>
#include <intel-ipsec-mb.h>
#include <memory>

#include "crypto/aead.hh"
#include "wire/bytes.hh"

#include "require.hh"

namespace psp::crypto {
namespace {

constexpr std::size_t kAesBlock = 16;
constexpr std::size_t kAes256RoundKeys = 15;

struct FreeManager {
  void operator()(IMB_MGR* manager) const { free_mb_mgr(manager); }
};
using Manager = std::unique_ptr<IMB_MGR, FreeManager>;

// usable is whether the library will use AES and carry-less multiplication instructions, and found
// itself in order. Without the instructions it would emulate them, slower than OpenSSL.
bool usable(const IMB_MGR& manager) {
  constexpr std::uint64_t wanted = IMB_FEATURE_AESNI | IMB_FEATURE_PCLMULQDQ;
  if ((manager.features & wanted) != wanted) return false;
  const bool has_self_test = manager.features & IMB_FEATURE_SELF_TEST;
  return !has_self_test || (manager.features & IMB_FEATURE_SELF_TEST_PASS);
}

Manager make_manager() {
  Manager manager(alloc_mb_mgr(0));
  if (!manager) return nullptr;
  IMB_ARCH arch = IMB_ARCH_NONE;
  init_mb_mgr_auto(manager.get(), &arch);
  if (arch == IMB_ARCH_NONE || !usable(*manager)) return nullptr;
  return manager;
}

const char* instruction_set(const IMB_MGR& manager) {
  switch (manager.used_arch) {
    case IMB_ARCH_AVX512:
      return manager.features & IMB_FEATURE_VAES ? "AVX512, VAES" : "AVX512, AES-NI";
    case IMB_ARCH_AVX2:
      return manager.features & IMB_FEATURE_VAES ? "AVX2, VAES" : "AVX2, AES-NI";
    case IMB_ARCH_AVX:
      return "AVX, AES-NI";
    default:
      return "SSE, AES-NI";
  }
}

// same_icv is constant_time_equal for 16 octets: no branch and no early end, and no call either, as
// it runs once a packet.
bool same_icv(const std::uint8_t* a, const std::uint8_t* b) {
  static_assert(kIcv == 16);
  const auto differ = [a, b](std::size_t at) {
    return wire::load_be<std::uint64_t>(a + at) ^ wire::load_be<std::uint64_t>(b + at);
  };
  return (differ(0) | differ(8)) == 0;
}

class IpsecMbAead final : public Aead {
 public:
  explicit IpsecMbAead(const IMB_MGR& manager) : manager_(manager) {}
  ~IpsecMbAead() override {
    explicit_bzero(&key_, sizeof key_);
    explicit_bzero(&context_, sizeof context_);
  }
  IpsecMbAead(const IpsecMbAead&) = delete;
  IpsecMbAead& operator=(const IpsecMbAead&) = delete;

  void rekey(Version version, std::span<const std::uint8_t> key) override {
    require(key.size() == key_size(version), "the length of the key is that of the version");
    if (key.size() == 32) {
      IMB_AES256_GCM_PRE(&manager_, key.data(), &key_);
      seal_ = manager_.gcm256_enc;
      open_ = manager_.gcm256_dec;
      return;
    }
    // The schedule of a longer key before this one would stay behind the shorter one.
    if (seal_ == manager_.gcm256_enc) explicit_bzero(key_.expanded_keys, sizeof key_.expanded_keys);
    IMB_AES128_GCM_PRE(&manager_, key.data(), &key_);
    seal_ = manager_.gcm128_enc;
    open_ = manager_.gcm128_dec;
  }

  void seal(const std::uint8_t* nonce, std::span<const std::uint8_t> aad,
            std::span<const std::uint8_t> in, std::uint8_t* out, std::uint8_t* icv) override {
    require(seal_ != nullptr, "rekey before seal");
    seal_(&key_, &context_, out, in.data(), in.size(), nonce, aad.data(), aad.size(), icv, kIcv);
  }

  bool open(const std::uint8_t* nonce, std::span<const std::uint8_t> aad,
            std::span<const std::uint8_t> in, std::uint8_t* out, const std::uint8_t* icv) override {
    require(open_ != nullptr, "rekey before open");
    std::array<std::uint8_t, kIcv> right;
    open_(&key_, &context_, out, in.data(), in.size(), nonce, aad.data(), aad.size(), right.data(),
          right.size());
    if (same_icv(right.data(), icv)) return true;
    explicit_bzero(right.data(), right.size());  // the ICV that a forger would like to know
    if (!in.empty()) explicit_bzero(out, in.size());
    return false;
  }

 private:
  const IMB_MGR& manager_;
  aes_gcm_enc_dec_t seal_ = nullptr;
  aes_gcm_enc_dec_t open_ = nullptr;
  gcm_key_data key_{};
  gcm_context_data context_{};
};

// IpsecMbKdf computes the CMAC of one whole block, which is AES of the block XOR the first subkey.
// The library has no direct call for one block of AES-256, so the rounds are written out over the
// library's key schedule, with the subkey folded into the first round key.
class IpsecMbKdf final : public Kdf {
 public:
  IpsecMbKdf(const IMB_MGR& manager, const DeviceKey& key) {
    require(key.size() == 32, "a device key has 256 bits");
    Schedule decryption;  // a by-product
    alignas(16) std::array<std::uint8_t, kAesBlock> subkey1;
    alignas(16) std::array<std::uint8_t, kAesBlock> subkey2;
    IMB_AES_KEYEXP_256(&manager, key.data(), schedule_.octets.data(), decryption.octets.data());
    IMB_AES_CMAC_SUBKEY_GEN_256(&manager, schedule_.octets.data(), subkey1.data(), subkey2.data());
    for (std::size_t i = 0; i < kAesBlock; ++i) schedule_.octets[i] ^= subkey1[i];
    explicit_bzero(subkey1.data(), subkey1.size());
    explicit_bzero(subkey2.data(), subkey2.size());
  }

  [[gnu::target("aes,sse2")]] void cmac_block(const std::uint8_t* block,
                                              std::uint8_t* mac) const override {
    const auto* keys = reinterpret_cast<const __m128i*>(schedule_.octets.data());
    __m128i state = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block));
    state = _mm_xor_si128(state, _mm_load_si128(keys));
    for (std::size_t round = 1; round + 1 < kAes256RoundKeys; ++round)
      state = _mm_aesenc_si128(state, _mm_load_si128(keys + round));
    state = _mm_aesenclast_si128(state, _mm_load_si128(keys + kAes256RoundKeys - 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(mac), state);
  }

 private:
  // Schedule is an expanded key, wiped when dropped.
  struct Schedule {
    Schedule() = default;
    ~Schedule() { explicit_bzero(octets.data(), octets.size()); }
    Schedule(const Schedule&) = delete;
    Schedule& operator=(const Schedule&) = delete;
    alignas(16) std::array<std::uint8_t, kAes256RoundKeys * kAesBlock> octets;
  };
  Schedule schedule_;
};

class IpsecMbBackend final : public Backend {
 public:
  explicit IpsecMbBackend(const IMB_MGR& manager) : manager_(manager) {}
  std::string_view name() const override { return "ipsec-mb"; }
  std::string description() const override {
    return std::string("ipsec-mb ") + imb_get_version_str() + " (" + instruction_set(manager_) +
           ")";
  }
  std::unique_ptr<Aead> make_aead() const override {
    return std::make_unique<IpsecMbAead>(manager_);
  }
  std::unique_ptr<Kdf> make_kdf(const DeviceKey& key) const override {
    return std::make_unique<IpsecMbKdf>(manager_, key);
  }

 private:
  const IMB_MGR& manager_;
};

}  // namespace

const Backend* ipsec_mb_backend() {
  static const Manager manager = make_manager();
  static const std::unique_ptr<Backend> backend =
      manager ? std::make_unique<IpsecMbBackend>(*manager) : nullptr;
  return backend.get();
}

}  // namespace psp::crypto
