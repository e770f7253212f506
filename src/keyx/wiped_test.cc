// SPDX-License-Identifier: Apache-2.0
//
// What an upgrade leaves in the memory of the process: no key. The peer is a process of its own, so
// that a key is found only where the code under test has put it; the test itself keeps all that it
// looks for masked.
#include <array>
#include <cstdio>
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <sys/random.h>

#include "test_peer.hh"

namespace psp::keyx {
namespace {

using test::Bytes;
using test::Side;

// As the programs do it, before OpenSSL has any memory.
const bool wiping = wipe_what_openssl_frees();

constexpr std::size_t kSize = 32;
constexpr std::uint8_t kMask = 0xa5;
using Masked = std::array<std::uint8_t, kSize>;

Masked mask(const std::uint8_t* octets) {
  Masked out;
  for (std::size_t i = 0; i < kSize; ++i) out[i] = octets[i] ^ kMask;
  return out;
}

crypto::SaKey random_key(Masked& masked) {
  crypto::SaKey key;
  key.resize(kSize);
  EXPECT_EQ(getrandom(key.data(), kSize, 0), static_cast<ssize_t>(kSize));
  masked = mask(key.data());
  return key;
}

// holds tells whether the first half of what is masked stands in `memory`: half a key is bad
// enough.
bool holds(std::span<const std::uint8_t> memory, const Masked& masked) {
  constexpr std::size_t kHalf = kSize / 2;
  const std::uint8_t* at = memory.data();
  const std::uint8_t* const end = at + memory.size();
  const auto first = static_cast<std::uint8_t>(masked[0] ^ kMask);
  while (end - at >= static_cast<std::ptrdiff_t>(kHalf)) {
    at = static_cast<const std::uint8_t*>(
        std::memchr(at, first, static_cast<std::size_t>(end - at)));
    if (at == nullptr || end - at < static_cast<std::ptrdiff_t>(kHalf)) return false;
    std::size_t same = 1;
    while (same < kHalf && (at[same] ^ kMask) == masked[same]) ++same;
    if (same == kHalf) return true;
    ++at;
  }
  return false;
}

// sanitizers map terabytes; nothing of ours is so large but what the search itself reads to.
constexpr std::size_t kMappingMax = 64ul << 20;

// found_in is the name of the mapping of this process in which it stands, empty if in none.
std::string found_in(const Masked& masked) {
  const test::Fd memory(open("/proc/self/mem", O_RDONLY | O_CLOEXEC));
  EXPECT_GE(memory.get(), 0);
  std::ifstream maps("/proc/self/maps");
  std::string line, found;
  static Bytes piece(kMappingMax + 65536);
  while (found.empty() && std::getline(maps, line)) {
    unsigned long begin = 0, end = 0;
    char rights[5] = {};
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, rights) != 3 || rights[1] != 'w' ||
        end - begin > kMappingMax)
      continue;
    const ssize_t n = pread(memory.get(), piece.data(), end - begin, static_cast<off_t>(begin));
    if (n > 0 && holds({piece.data(), static_cast<std::size_t>(n)}, masked)) found = line;
  }
  return found;
}

// Forgetful gives out a random key, and keeps both keys masked.
class Forgetful final : public PspOps {
 public:
  Masked own{}, taken{};
  Availability available(int) override { return {.versions = VersionSet::all()}; }
  ClientResult<RxAssocInfo> rx_assoc(int, Version) override {
    return RxAssocInfo{1, {Spi{0x101}, random_key(own)}};
  }
  ClientResult<void> tx_assoc(int, Version, const KeyInfo& tx) override {
    taken = mask(tx.key.data());
    return {};
  }
};

Policy policy(Protocol protocol) { return {.versions = {0b10}, .protocol = protocol}; }

bool handshake_alone(Side& side) {
  for (;;) {
    const auto step = handshake(*side.context, side.ssl.get());
    if (!step || *step == Step::kDone) return step.has_value();
    pollfd p{side.fd.get(), static_cast<short>(*step == Step::kWantRead ? POLLIN : POLLOUT), 0};
    if (poll(&p, 1, 5000) != 1) return false;
  }
}

// Other is a process that runs `play` with one end of a TCP connection.
class Other {
 public:
  explicit Other(const std::function<void(test::Fd)>& play) {
    auto [near, far] = test::tcp_pair();
    pid_ = fork();
    if (pid_ == 0) {
      near.reset();
      play(std::move(far));
      _exit(0);
    }
    fd = std::move(near);
  }
  ~Other() {
    fd.reset();
    waitpid(pid_, nullptr, 0);
  }
  Other(const Other&) = delete;
  Other& operator=(const Other&) = delete;
  test::Fd fd;

 private:
  pid_t pid_ = -1;
};

void wait_for_end(int fd) {
  char octet;
  while (test::wait_readable(fd, 20000) && recv(fd, &octet, 1, 0) > 0) {
  }
}

class Wiped : public testing::TestWithParam<Protocol> {
 protected:
  void SetUp() override {
    // What is looked for is found where it is.
    Masked masked{};
    const crypto::SaKey key = random_key(masked);
    const auto heap = std::make_unique<Bytes>(key.span().begin(), key.span().end());
    ASSERT_NE(found_in(masked), "");
    explicit_bzero(heap->data(), heap->size());
  }
};
INSTANTIATE_TEST_SUITE_P(Protocols, Wiped, testing::Values(Protocol::kSoftpsp, Protocol::kFizzV0),
                         [](const auto& param) {
                           return param.param == Protocol::kSoftpsp ? "Softpsp" : "FizzV0";
                         });

TEST_P(Wiped, NoKeyIsLeftInMemoryWhenItSaysPsp) {
  test::first_use_context(true);
  Other other([](test::Fd fd) {
    Side side(test::first_use_context(true), std::move(fd));
    Forgetful ops;
    if (!handshake_alone(side)) return;
    const auto upgrade = make_upgrade(side.ssl.get(), ops, policy(GetParam()));
    test::run(*upgrade, side);
    wait_for_end(side.fd.get());
  });
  Side side(test::first_use_context(false), std::move(other.fd));
  Forgetful ops;
  ASSERT_TRUE(handshake_alone(side));
  auto upgrade = make_upgrade(side.ssl.get(), ops, policy(GetParam()));
  while (test::run(*upgrade, side) == Step::kWantRead && test::wait_readable(side.fd.get())) {
  }
  ASSERT_TRUE(upgrade->done()) << upgrade->error().message;
  EXPECT_EQ(found_in(ops.own), "");
  EXPECT_EQ(found_in(ops.taken), "");
  upgrade.reset();
  side.ssl.reset();
  EXPECT_EQ(found_in(ops.own), "");
  EXPECT_EQ(found_in(ops.taken), "");
}

TEST(WipedEarly, WhatThePeersApplicationSaidIsGoneWithTheUpgrade) {
  // Twice: what was taken is gone at once, and what nobody took with the upgrade.
  for (const bool take : {true, false}) {
    test::first_use_context(true);
    Other other([](test::Fd fd) {
      Side side(test::first_use_context(true), std::move(fd));
      Forgetful ops;
      if (!handshake_alone(side)) return;
      crypto::SaKey said = random_key(ops.taken);
      for (int i = 0; i < 40; ++i)  // enough for the buffer to grow
        SSL_write(side.ssl.get(), said.data(), static_cast<int>(said.size()));
      const auto upgrade = make_upgrade(side.ssl.get(), ops, {});
      test::run(*upgrade, side);
      wait_for_end(side.fd.get());
    });
    Side side(test::first_use_context(false), std::move(other.fd));
    Forgetful ops;
    ASSERT_TRUE(handshake_alone(side));
    auto upgrade = make_upgrade(side.ssl.get(), ops, {});
    while (test::run(*upgrade, side) == Step::kWantRead && test::wait_readable(side.fd.get())) {
    }
    ASSERT_TRUE(upgrade->done()) << upgrade->error().message;
    ASSERT_EQ(upgrade->pending(), 40 * kSize);
    Masked masked{};
    crypto::Secret<kSize> some;
    some.resize(kSize);
    for (int i = 0; i < (take ? 40 : 1); ++i) ASSERT_EQ(upgrade->read({some.data(), kSize}), kSize);
    masked = mask(some.data());
    some.wipe();
    if (!take) {
      EXPECT_NE(found_in(masked), "");
      upgrade.reset();
    }
    EXPECT_EQ(found_in(masked), "") << take;
  }
}

// secrets are the traffic secrets of the last handshake, and its exporter secret, masked.
std::map<std::string, Masked> secrets;

void on_key_log(const SSL*, const char* line) {
  const char* const octets = std::strrchr(line, ' ') + 1;
  Masked masked{};
  for (std::size_t i = 0; i < kSize && octets[2 * i] != 0; ++i) {
    unsigned octet = 0;
    std::sscanf(octets + 2 * i, "%2x", &octet);
    masked[i] = static_cast<std::uint8_t>(octet) ^ kMask;
  }
  secrets[{line, static_cast<std::size_t>(std::strchr(line, ' ') - line)}] = masked;
}

TEST(WipedTls, NoSecretOfTlsIsLeftWhenTheSslIsFreed) {
  // Who has recorded the handshake reads KEY with them.
  ASSERT_TRUE(wiping);
  auto context = make_context({.server = false, .first_use = true});
  SSL_CTX_set_keylog_callback(context->ctx.get(), on_key_log);
  test::first_use_context(true);
  Other other([](test::Fd fd) {
    Side side(test::first_use_context(true), std::move(fd));
    handshake_alone(side);
    wait_for_end(side.fd.get());
  });
  {
    Side side(*context, std::move(other.fd));
    ASSERT_TRUE(handshake_alone(side));
    EXPECT_NE(found_in(secrets["EXPORTER_SECRET"]), "");
    side.ssl.reset();
  }
  ASSERT_GE(secrets.size(), 5u);
  for (const auto& [name, masked] : secrets) EXPECT_EQ(found_in(masked), "") << name;
}

TEST(WipedPsk, ThePreSharedKeyGoesWithItsContext) {
  const std::string file = testing::TempDir() + "wiped-psk";
  Masked masked{};
  {
    // In hex, as people make it; written by octets, so that no text of it is kept either.
    const crypto::SaKey psk = random_key(masked);
    const test::Fd out(open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    for (const std::uint8_t octet : psk.span())
      for (const int digit : {octet >> 4, octet & 15})
        ASSERT_EQ(write(out.get(), &"0123456789abcdef"[digit], 1), 1);
  }
  Masked hex{};
  for (std::size_t i = 0; i < kSize; ++i) {
    const auto octet = static_cast<std::uint8_t>(masked[i / 2] ^ kMask);
    hex[i] =
        static_cast<std::uint8_t>("0123456789abcdef"[i % 2 == 0 ? octet >> 4 : octet & 15]) ^ kMask;
  }
  Other other([&](test::Fd fd) {
    const auto context = make_context({.server = true, .psk_file = file});
    Side side(*context, std::move(fd));
    handshake_alone(side);
    wait_for_end(side.fd.get());
  });
  {
    const auto context = make_context({.server = false, .psk_file = file});
    ASSERT_TRUE(context);
    Side side(*context, std::move(other.fd));
    ASSERT_TRUE(handshake_alone(side));
    EXPECT_NE(found_in(masked), "");
  }
  EXPECT_EQ(found_in(masked), "");
  EXPECT_EQ(found_in(hex), "");
  unlink(file.c_str());
}

}  // namespace
}  // namespace psp::keyx
