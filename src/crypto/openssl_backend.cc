// SPDX-License-Identifier: Apache-2.0
//
// The portable backend: OpenSSL 3 by its EVP interface. What makes EVP slow is looking up
// algorithms and making contexts, so ciphers are fetched once, an Aead keeps its contexts, a new
// key sets only the key and a packet only the nonce. OpenSSL wipes the key schedules when a context
// is freed.
//
// Threading: an Aead has one user at a time. A Kdf is used by all workers at once, but an EVP
// context has only one user, so a Kdf owns several contexts and each call takes a free one: one
// atomic exchange, and no waiting while there are no more threads than contexts.
#include <array>
#include <atomic>
#include <memory>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <thread>

#include "crypto/aead.hh"

#include "require.hh"

namespace psp::crypto {
namespace {

constexpr std::size_t kAesBlock = 16;

struct FreeCipher {
  void operator()(EVP_CIPHER* cipher) const { EVP_CIPHER_free(cipher); }
};
struct FreeContext {
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
};
using Cipher = std::unique_ptr<EVP_CIPHER, FreeCipher>;
using Context = std::unique_ptr<EVP_CIPHER_CTX, FreeContext>;

Cipher fetch(const char* algorithm) {
  Cipher cipher(EVP_CIPHER_fetch(nullptr, algorithm, nullptr));
  require(cipher != nullptr, "OpenSSL provides AES-GCM and AES-ECB");
  return cipher;
}

// Ciphers are all algorithms used here, fetched on first use.
struct Ciphers {
  Cipher gcm_128 = fetch("AES-128-GCM");
  Cipher gcm_256 = fetch("AES-256-GCM");
  Cipher ecb_256 = fetch("AES-256-ECB");
};

const Ciphers& ciphers() {
  static const Ciphers instance;
  return instance;
}

Context make_context(const Cipher& cipher) {
  Context context(EVP_CIPHER_CTX_new());
  require(context && EVP_CipherInit_ex2(context.get(), cipher.get(), nullptr, nullptr, 1, nullptr),
          "OpenSSL makes a cipher context");
  return context;
}

void set_key(const Context& context, const std::uint8_t* key) {
  require(EVP_CipherInit_ex2(context.get(), nullptr, key, nullptr, 1, nullptr),
          "OpenSSL takes a key");
}

// update runs octets through a cipher; `out` null means that they are AAD. Lengths are those of one
// packet and fit an int.
bool update(const Context& context, std::uint8_t* out, std::span<const std::uint8_t> in) {
  int written = 0;
  return in.empty() || EVP_CipherUpdate(context.get(), out, &written, in.data(),
                                        static_cast<int>(in.size())) == 1;
}

class OpenSslAead final : public Aead {
 public:
  OpenSslAead()
      : gcm_128_(make_context(ciphers().gcm_128)), gcm_256_(make_context(ciphers().gcm_256)) {}

  void rekey(Version version, std::span<const std::uint8_t> key) override {
    require(key.size() == key_size(version), "the length of the key is that of the version");
    const bool wide = key.size() == 32;
    const Context& next = wide ? gcm_256_ : gcm_128_;
    if (current_ && current_ != &next) set_key(*current_, kNoKey.data());  // overwrites the old one
    set_key(next, key.data());
    current_ = &next;
  }

  void seal(const std::uint8_t* nonce, std::span<const std::uint8_t> aad,
            std::span<const std::uint8_t> in, std::uint8_t* out, std::uint8_t* icv) override {
    int written = 0;
    require(start(nonce, true) && update(*current_, nullptr, aad) && update(*current_, out, in) &&
                EVP_CipherFinal_ex(current_->get(), icv, &written) &&
                EVP_CIPHER_CTX_ctrl(current_->get(), EVP_CTRL_AEAD_GET_TAG, kIcv, icv),
            "OpenSSL seals");
  }

  bool open(const std::uint8_t* nonce, std::span<const std::uint8_t> aad,
            std::span<const std::uint8_t> in, std::uint8_t* out, const std::uint8_t* icv) override {
    std::uint8_t nothing[kAesBlock];
    int written = 0;
    // EVP_CipherFinal_ex compares in constant time.
    const bool good = start(nonce, false) &&
                      EVP_CIPHER_CTX_ctrl(current_->get(), EVP_CTRL_AEAD_SET_TAG, kIcv,
                                          const_cast<std::uint8_t*>(icv)) &&
                      update(*current_, nullptr, aad) && update(*current_, out, in) &&
                      EVP_CipherFinal_ex(current_->get(), nothing, &written) == 1;
    if (!good && !in.empty()) explicit_bzero(out, in.size());
    return good;
  }

 private:
  static constexpr std::array<std::uint8_t, 32> kNoKey{};

  bool start(const std::uint8_t* nonce, bool encrypt) const {
    require(current_ != nullptr, "rekey before seal or open");
    return EVP_CipherInit_ex2(current_->get(), nullptr, nullptr, nonce, encrypt, nullptr) == 1;
  }

  Context gcm_128_;
  Context gcm_256_;
  const Context* current_ = nullptr;
};

// double_in_gf doubles a block in GF(2^128) as SP 800-38B does to make subkeys, without branches.
void double_in_gf(std::array<std::uint8_t, kAesBlock>& block) {
  const auto carry = static_cast<std::uint8_t>(-(block[0] >> 7) & 0x87);
  for (std::size_t i = 0; i + 1 < kAesBlock; ++i)
    block[i] = static_cast<std::uint8_t>(block[i] << 1 | block[i + 1] >> 7);
  block[kAesBlock - 1] = static_cast<std::uint8_t>(block[kAesBlock - 1] << 1 ^ carry);
}

// OpenSslKdf computes the CMAC of one whole block, which is AES of the block XOR the first subkey.
// EVP_MAC does the same in three times the time.
class OpenSslKdf final : public Kdf {
 public:
  explicit OpenSslKdf(const DeviceKey& key) {
    require(key.size() == 32, "a device key has 256 bits");
    for (Slot& slot : slots_) {
      slot.context = make_context(ciphers().ecb_256);
      EVP_CIPHER_CTX_set_padding(slot.context.get(), 0);
      set_key(slot.context, key.data());
    }
    const std::array<std::uint8_t, kAesBlock> zero{};
    require(update(slots_[0].context, subkey_.data(), zero), "OpenSSL encrypts a block");
    double_in_gf(subkey_);
  }
  ~OpenSslKdf() override { explicit_bzero(subkey_.data(), subkey_.size()); }
  OpenSslKdf(const OpenSslKdf&) = delete;
  OpenSslKdf& operator=(const OpenSslKdf&) = delete;

  void cmac_block(const std::uint8_t* block, std::uint8_t* mac) const override {
    std::array<std::uint8_t, kAesBlock> masked;
    for (std::size_t i = 0; i < kAesBlock; ++i) masked[i] = block[i] ^ subkey_[i];
    Slot& slot = take();
    const bool done = update(slot.context, mac, masked);
    slot.taken.clear(std::memory_order_release);
    explicit_bzero(masked.data(), masked.size());  // block and subkey are known from each other
    require(done, "OpenSSL encrypts a block");
  }

 private:
  static constexpr std::size_t kSlots = 8;

  // Slot is a context with the key in it and whether somebody uses it.
  struct alignas(64) Slot {
    Context context;
    std::atomic_flag taken;
  };

  // take finds a free context, from a place on that differs between threads.
  Slot& take() const {
    thread_local const std::size_t start = std::hash<std::thread::id>()(std::this_thread::get_id());
    for (std::size_t i = start;; ++i) {
      Slot& slot = slots_[i % kSlots];
      if (!slot.taken.test_and_set(std::memory_order_acquire)) return slot;
    }
  }

  mutable std::array<Slot, kSlots> slots_;
  std::array<std::uint8_t, kAesBlock> subkey_;
};

class OpenSslBackend final : public Backend {
 public:
  std::string_view name() const override { return "openssl"; }
  std::string description() const override { return OpenSSL_version(OPENSSL_VERSION); }
  std::unique_ptr<Aead> make_aead() const override { return std::make_unique<OpenSslAead>(); }
  std::unique_ptr<Kdf> make_kdf(const DeviceKey& key) const override {
    return std::make_unique<OpenSslKdf>(key);
  }
};

}  // namespace

const Backend& openssl_backend() {
  static const OpenSslBackend backend;
  return backend;
}

}  // namespace psp::crypto
