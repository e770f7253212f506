// SPDX-License-Identifier: Apache-2.0
//
// What a packet costs. `raw` is the bare library: one call on one buffer, 16 octets of AAD, out of
// place. `packet` is the same with all headers: seal_packet, and parse_packet with open_packet.
// Sizes are octets of inner packet. Also key derivation, and a receiver that derives and sets the
// key for each packet (stateless) against one that finds it set (cached).
//
// For the GMAC versions `raw` only reads the payload; `packet` has to move it as well, which is
// what `raw_copy` adds to the bare library.
//
// Compare numbers of one run: crypto_bench --benchmark_filter='/1460'
#include <array>
#include <benchmark/benchmark.h>
#include <cstring>
#include <memory>
#include <openssl/evp.h>
#include <vector>

#include "crypto/seal.hh"
#include "wire/checksum.hh"

#ifdef PSP_HAVE_IPSEC_MB
#include <intel-ipsec-mb.h>
#endif

namespace psp {
namespace {

using Octets = std::vector<std::uint8_t>;

constexpr std::size_t kSizes[] = {64, 256, 1460, 8960};
constexpr std::size_t kMost = 9216;

// Buffers are what one seal or open works on. They start on cache lines, as a datapath's do.
struct Buffers {
  alignas(64) std::array<std::uint8_t, kMost> in{};
  alignas(64) std::array<std::uint8_t, kMost> out{};
  alignas(64) std::array<std::uint8_t, kPspBaseHeader> aad{};
  std::array<std::uint8_t, 16> icv{};
  std::array<std::uint8_t, kNonce> nonce{};
  std::array<std::uint8_t, 32> key{};
};

// Raw is a library without anything around it.
class Raw {
 public:
  virtual ~Raw() = default;
  virtual void seal(Buffers& b, std::span<const std::uint8_t> aad, std::size_t size) = 0;
  virtual void open(Buffers& b, std::span<const std::uint8_t> aad, std::size_t size) = 0;
};

class RawOpenSsl final : public Raw {
 public:
  RawOpenSsl(Version version, const std::uint8_t* key)
      : cipher_(EVP_CIPHER_fetch(nullptr, key_size(version) == 16 ? "AES-128-GCM" : "AES-256-GCM",
                                 nullptr)),
        context_(EVP_CIPHER_CTX_new()) {
    EVP_EncryptInit_ex2(context_, cipher_, key, nullptr, nullptr);
  }
  ~RawOpenSsl() override {
    EVP_CIPHER_CTX_free(context_);
    EVP_CIPHER_free(cipher_);
  }
  RawOpenSsl(const RawOpenSsl&) = delete;
  RawOpenSsl& operator=(const RawOpenSsl&) = delete;

  void seal(Buffers& b, std::span<const std::uint8_t> aad, std::size_t size) override {
    int n;
    EVP_EncryptInit_ex2(context_, nullptr, nullptr, b.nonce.data(), nullptr);
    EVP_EncryptUpdate(context_, nullptr, &n, aad.data(), static_cast<int>(aad.size()));
    if (size) EVP_EncryptUpdate(context_, b.out.data(), &n, b.in.data(), static_cast<int>(size));
    EVP_EncryptFinal_ex(context_, b.icv.data(), &n);
    EVP_CIPHER_CTX_ctrl(context_, EVP_CTRL_AEAD_GET_TAG, 16, b.icv.data());
  }
  void open(Buffers& b, std::span<const std::uint8_t> aad, std::size_t size) override {
    int n;
    EVP_DecryptInit_ex2(context_, nullptr, nullptr, b.nonce.data(), nullptr);
    EVP_CIPHER_CTX_ctrl(context_, EVP_CTRL_AEAD_SET_TAG, 16, b.icv.data());
    EVP_DecryptUpdate(context_, nullptr, &n, aad.data(), static_cast<int>(aad.size()));
    if (size) EVP_DecryptUpdate(context_, b.out.data(), &n, b.in.data(), static_cast<int>(size));
    benchmark::DoNotOptimize(EVP_DecryptFinal_ex(context_, b.aad.data(), &n));
  }

 private:
  EVP_CIPHER* cipher_;
  EVP_CIPHER_CTX* context_;
};

#ifdef PSP_HAVE_IPSEC_MB
class RawIpsecMb final : public Raw {
 public:
  RawIpsecMb(Version version, const std::uint8_t* key) : manager_(alloc_mb_mgr(0)) {
    init_mb_mgr_auto(manager_, nullptr);
    if (key_size(version) == 16) {
      IMB_AES128_GCM_PRE(manager_, key, &key_);
      seal_ = manager_->gcm128_enc;
      open_ = manager_->gcm128_dec;
    } else {
      IMB_AES256_GCM_PRE(manager_, key, &key_);
      seal_ = manager_->gcm256_enc;
      open_ = manager_->gcm256_dec;
    }
  }
  ~RawIpsecMb() override { free_mb_mgr(manager_); }
  RawIpsecMb(const RawIpsecMb&) = delete;
  RawIpsecMb& operator=(const RawIpsecMb&) = delete;

  void seal(Buffers& b, std::span<const std::uint8_t> aad, std::size_t size) override {
    seal_(&key_, &context_, b.out.data(), b.in.data(), size, b.nonce.data(), aad.data(), aad.size(),
          b.icv.data(), 16);
  }
  void open(Buffers& b, std::span<const std::uint8_t> aad, std::size_t size) override {
    open_(&key_, &context_, b.out.data(), b.in.data(), size, b.nonce.data(), aad.data(), aad.size(),
          b.icv.data(), 16);
  }

 private:
  IMB_MGR* manager_;
  aes_gcm_enc_dec_t seal_;
  aes_gcm_enc_dec_t open_;
  gcm_key_data key_;
  gcm_context_data context_;
};
#endif

std::unique_ptr<Raw> make_raw(const crypto::Backend& backend, Version version,
                              const std::uint8_t* key) {
#ifdef PSP_HAVE_IPSEC_MB
  if (backend.name() == "ipsec-mb") return std::make_unique<RawIpsecMb>(version, key);
#endif
  (void)backend;
  return std::make_unique<RawOpenSsl>(version, key);
}

void count(benchmark::State& state, std::size_t size) {
  state.SetBytesProcessed(static_cast<std::int64_t>(size) * state.iterations());
}

// run_raw measures the bare library. With `copy` the GMAC payload is also moved.
void run_raw(benchmark::State& state, const crypto::Backend* backend, Version version,
             std::size_t size, bool sealing, bool copy) {
  const auto b = std::make_unique<Buffers>();
  const auto raw = make_raw(*backend, version, b->key.data());
  const bool gmac = !encrypts(version);
  const std::span<const std::uint8_t> aad =
      gmac ? std::span<const std::uint8_t>(b->in).first(kPspBaseHeader + size)
           : std::span<const std::uint8_t>(b->aad);
  for (auto _ : state) {
    ++b->nonce[11];
    if (copy) std::memcpy(b->out.data(), b->in.data(), size);
    if (sealing)
      raw->seal(*b, aad, gmac ? 0 : size);
    else
      raw->open(*b, aad, gmac ? 0 : size);
    benchmark::ClobberMemory();
  }
  count(state, size);
}

// make_clear is an IPv4 packet with `size` octets behind its header.
std::size_t make_clear(std::span<std::uint8_t> packet, std::size_t size) {
  packet[0] = 0x45;
  packet[6] = 0x40;
  wire::set_ip_payload(packet, {.family = 4, .header_length = kIpv4Header}, size,
                       wire::kProtocolTcp);
  return kIpv4Header + size;
}

void run_seal_packet(benchmark::State& state, const crypto::Backend* backend, Version version,
                     std::size_t size) {
  const auto b = std::make_unique<Buffers>();
  const auto aead = backend->make_aead();
  aead->rekey(version, std::span(b->key).first(key_size(version)));
  const std::size_t clear_size = make_clear(b->in, size);
  const auto clear = std::span<const std::uint8_t>(b->in).first(clear_size);
  wire::EncapOptions options{.version = version, .spi = {1}, .source_port = 4000};
  for (auto _ : state) {
    ++options.iv;
    if (!crypto::seal_packet(*aead, options, clear, b->out)) state.SkipWithError("not sealed");
    benchmark::ClobberMemory();
  }
  count(state, size);
}

enum class Receiver { kCached, kStateless };

void run_open_packet(benchmark::State& state, const crypto::Backend* backend, Version version,
                     std::size_t size, Receiver receiver) {
  const auto b = std::make_unique<Buffers>();
  const auto aead = backend->make_aead();
  const auto kdf = backend->make_kdf(crypto::DeviceKey(b->key));
  crypto::SaKey key;
  kdf->derive(version, {1}, key);
  aead->rekey(version, key.span());
  const std::size_t clear_size = make_clear(b->out, size);
  const wire::EncapOptions options{.version = version, .spi = {1}};
  const auto sealed =
      crypto::seal_packet(*aead, options, std::span(b->out).first(clear_size), b->in);
  const auto in = std::span<const std::uint8_t>(b->in).first(*sealed);
  for (auto _ : state) {
    const auto packet = wire::parse_packet(in);
    if (receiver == Receiver::kStateless) {
      kdf->derive(*packet->header.version(), packet->header.spi, key);
      aead->rekey(*packet->header.version(), key.span());
    }
    if (!crypto::open_packet(*aead, *packet, in, b->out)) state.SkipWithError("not opened");
    benchmark::ClobberMemory();
  }
  count(state, size);
}

void run_derive(benchmark::State& state, const crypto::Backend* backend, Version version) {
  const auto kdf = backend->make_kdf(crypto::DeviceKey(Octets(32, 1)));
  crypto::SaKey key;
  Spi spi{1};
  for (auto _ : state) {
    ++spi.value;
    kdf->derive(version, spi, key);
    benchmark::DoNotOptimize(key.data());
  }
}

void run_rekey(benchmark::State& state, const crypto::Backend* backend, Version version) {
  const auto aead = backend->make_aead();
  const Octets key(key_size(version), 1);
  for (auto _ : state) {
    aead->rekey(version, key);
    benchmark::ClobberMemory();
  }
}

void run_checksum(benchmark::State& state, std::size_t size) {
  const Octets octets(size, 0xa5);
  for (auto _ : state) benchmark::DoNotOptimize(wire::checksum_add(0, octets));
  count(state, size);
}

void register_packets(const crypto::Backend* backend, Version version, std::size_t size) {
  const auto add = [&](const char* what, auto run, auto... arguments) {
    const std::string title = std::string(what) + "/" + std::string(backend->name()) + "/" +
                              std::string(name(version)).substr(5) + "/" + std::to_string(size);
    benchmark::RegisterBenchmark(title.c_str(), run, backend, version, size, arguments...);
  };
  const bool gmac = !encrypts(version);
  add("seal_raw", run_raw, true, false);
  if (gmac) add("seal_raw_copy", run_raw, true, true);
  add("seal_packet", run_seal_packet);
  add("open_raw", run_raw, false, false);
  if (gmac) add("open_raw_copy", run_raw, false, true);
  add("open_packet", run_open_packet, Receiver::kCached);
  add("open_packet_stateless", run_open_packet, Receiver::kStateless);
}

void register_all() {
  std::vector<const crypto::Backend*> backends = {&crypto::openssl_backend()};
  if (crypto::ipsec_mb_backend()) backends.insert(backends.begin(), crypto::ipsec_mb_backend());
  for (const crypto::Backend* backend : backends) {
    const std::string backend_name(backend->name());
    for (const Version version : {Version::kAesGcm128, Version::kAesGcm256}) {
      const std::string title = backend_name + (key_size(version) == 16 ? "/128" : "/256");
      benchmark::RegisterBenchmark(("derive/" + title).c_str(), run_derive, backend, version);
      benchmark::RegisterBenchmark(("rekey/" + title).c_str(), run_rekey, backend, version);
    }
    for (unsigned version = 0; version < kVersions; ++version)
      for (const std::size_t size : kSizes) register_packets(backend, *to_version(version), size);
  }
  for (const std::size_t size : kSizes)
    benchmark::RegisterBenchmark(("checksum/" + std::to_string(size)).c_str(), run_checksum, size);
}

}  // namespace
}  // namespace psp

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  psp::register_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
