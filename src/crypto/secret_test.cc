// SPDX-License-Identifier: Apache-2.0
//
// Secret: that it wipes, moves and cuts as it says, and, at compile time, what it must not do: be
// copied, printed or compared. What is left in memory after a wipe is read back, as who finds that
// memory would. Of random octets no more can be shown than that all are filled and none repeat.
// What copies the compiler makes in registers and on the stack is not shown; what an upgrade leaves
// in a whole process is in keyx/wiped_test.cc.
#include "crypto/secret.hh"

#include <array>
#include <concepts>
#include <cstdint>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <memory>
#include <new>
#include <ostream>
#include <set>
#include <type_traits>
#include <vector>

#include "crypto/aead.hh"

namespace psp::crypto {
namespace {

template <typename T>
concept Formattable = fmt::is_formattable<T>::value;
template <typename T>
concept Streamable = requires(std::ostream& stream, const T& value) {
  stream << value;
};
template <typename T>
concept EqualityComparable = requires(const T& a, const T& b) {
  a == b;
};

// The concepts find what is there ...
static_assert(Formattable<int> && Streamable<int> && EqualityComparable<int>);
// ... and Secret has none of it.
static_assert(!Formattable<Secret<32>> && !Formattable<Secret<16>>);
static_assert(!Streamable<Secret<32>>);
static_assert(!EqualityComparable<Secret<32>>);
static_assert(!std::is_copy_constructible_v<Secret<32>> && !std::is_copy_assignable_v<Secret<32>>);
static_assert(!std::convertible_to<std::span<const std::uint8_t>, Secret<32>>);

constexpr std::array<std::uint8_t, 4> kOctets = {1, 2, 3, 4};

TEST(Secret, HoldsWhatItWasGiven) {
  const Secret<8> secret(kOctets);
  EXPECT_EQ(secret.size(), 4u);
  EXPECT_TRUE(constant_time_equal(secret.span(), kOctets));
}

TEST(Secret, TakesNoMoreThanItHolds) {
  const Secret<2> secret(kOctets);
  EXPECT_EQ(secret.size(), 2u);
}

TEST(Secret, WipesItsMemoryWhenDropped) {
  using Held = Secret<8>;
  alignas(Held) std::array<std::uint8_t, sizeof(Held)> memory{};
  auto* secret = new (memory.data()) Held(kOctets);
  ASSERT_EQ(std::count(memory.begin(), memory.end(), 3), 1);
  std::destroy_at(secret);
  // Read as the attacker would, through volatile, so that the look is not optimised away.
  const volatile std::uint8_t* left = memory.data();
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(left[i], 0) << i;
}

TEST(Secret, WipesWhatItWasMovedFrom) {
  Secret<8> from(kOctets);
  Secret<8> to(std::move(from));
  EXPECT_TRUE(constant_time_equal(to.span(), kOctets));
  EXPECT_TRUE(from.empty());
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(from.data()[i], 0);
}

TEST(Secret, WipesTheTailOfWhatItReplaces) {
  Secret<8> secret(kOctets);
  secret.assign(std::span(kOctets).first(1));
  secret.resize(4);
  EXPECT_TRUE(constant_time_equal(secret.span(), std::array<std::uint8_t, 4>{1, 0, 0, 0}));
}

TEST(Secret, WipesWhatResizeCutsOff) {
  Secret<8> secret(kOctets);
  secret.resize(2);
  secret.resize(4);
  EXPECT_TRUE(constant_time_equal(secret.span(), std::array<std::uint8_t, 4>{1, 2, 0, 0}));
}

TEST(ConstantTimeEqual, ComparesLengthAndEveryOctet) {
  EXPECT_TRUE(constant_time_equal({}, {}));
  EXPECT_FALSE(constant_time_equal(kOctets, std::span(kOctets).first(3)));
  for (std::size_t i = 0; i < kOctets.size(); ++i) {
    auto other = kOctets;
    other[i] ^= 0x80;
    EXPECT_FALSE(constant_time_equal(kOctets, other)) << i;
  }
}

TEST(RandomBytes, FillsAllOfAnyLength) {
  for (const std::size_t size : {0u, 1u, 32u, 1000u}) {
    // Each octet must at some time have been other than zero: 64 misses in a row are out of reach.
    std::vector<std::uint8_t> seen(size);
    for (int i = 0; i < 64; ++i) {
      std::vector<std::uint8_t> octets(size);
      random_bytes(octets);
      for (std::size_t at = 0; at < size; ++at) seen[at] |= octets[at];
    }
    EXPECT_EQ(std::count(seen.begin(), seen.end(), 0), 0);
  }
}

TEST(RandomBytes, DoesNotRepeat) {
  std::set<std::vector<std::uint8_t>> keys;
  for (int i = 0; i < 100; ++i) {
    std::vector<std::uint8_t> key(32);
    random_bytes(key);
    EXPECT_TRUE(keys.insert(key).second);
  }
}

}  // namespace
}  // namespace psp::crypto
