// SPDX-License-Identifier: Apache-2.0
//
// Datagrams behind one another, told from one long datagram without a key. The content is noise, as
// ciphertext is; headers have SPIs and IVs as pspd sends them, some are damaged on purpose, some
// are of several connections in turn. The answer is known, since the test has joined them itself.
// How often real ciphertext misleads the search is not measured: who has a key asks the ICV first.
#include "pcap/joined.hh"

#include <gtest/gtest.h>
#include <random>
#include <vector>

#include "wire/bytes.hh"

namespace psp::pcap {
namespace {

using Octets = std::vector<std::uint8_t>;

struct Datagram {
  std::size_t size = 100;
  std::uint32_t spi = 0x1a345678;
  std::uint64_t iv = 0x0000'0007'4fae'7fb8;
  std::uint8_t ext = 1;
  std::uint8_t flags = 0x01;
};

// payload: datagrams whose content is noise, as ciphertext is.
Octets payload(const std::vector<Datagram>& datagrams) {
  std::mt19937 noise(1);
  Octets octets;
  for (const Datagram& one : datagrams) {
    Octets datagram(one.size);
    for (auto& octet : datagram) octet = static_cast<std::uint8_t>(noise());
    datagram[0] = 6, datagram[1] = one.ext, datagram[2] = 0, datagram[3] = one.flags;
    wire::store_be(datagram.data() + 4, one.spi);
    wire::store_be(datagram.data() + 8, one.iv);
    octets.insert(octets.end(), datagram.begin(), datagram.end());
  }
  return octets;
}

TEST(JoinedStride, FindsEveryLengthAndTheShorterLastOne) {
  for (const std::size_t size : {32u, 33u, 100u, 1472u, 8972u})
    for (const std::size_t last : {std::size_t{32}, size})
      EXPECT_EQ(joined_stride(payload({{size}, {size}, {size}, {last}})), size) << last;
  EXPECT_EQ(joined_stride(payload({{1472}, {1472}})), 1472u);
}

TEST(JoinedStride, IsNothingForOneDatagram) {
  for (const std::size_t size : {0u, 1u, 15u, 16u, 32u, 64u, 1472u, 65507u})
    EXPECT_EQ(joined_stride(payload({{std::max<std::size_t>(size, 16)}})), 0u);
  EXPECT_EQ(joined_stride({}), 0u);
  EXPECT_EQ(joined_stride(Octets{6, 1, 0, 1}), 0u);
  EXPECT_EQ(joined_stride(payload({{1472}, {31}})), 0u) << "too short for a header and an ICV";
  Octets one = payload({{1472}});
  std::fill(one.begin() + 16, one.end(), std::uint8_t{0});
  EXPECT_EQ(joined_stride(one), 0u);
}

TEST(JoinedStride, LooksAtTheWholeHeaderLength) {
  EXPECT_EQ(joined_stride(payload({{200, 1, 1, 5}, {200, 1, 2, 5}})), 200u);
  EXPECT_EQ(joined_stride(payload({{200, 1, 1, 5}, {63, 1, 2, 5}})), 0u) << "64 is the least";
}

TEST(JoinedStride, IsNotMisledByADamagedHeader) {
  for (const std::size_t which : {1u, 2u, 3u}) {
    auto octets = payload({{100}, {100}, {100}, {100}});
    octets[which * 100 + 1] ^= 0xff;
    octets[which * 100 + 4] ^= 0xff;
    EXPECT_EQ(joined_stride(octets), 100u) << which;
  }
}

TEST(JoinedStride, TakesConnectionsThatTakeTurns) {
  EXPECT_EQ(joined_stride(payload({{100, 1}, {100, 2}})), 100u) << "alike by their IVs";
  EXPECT_EQ(joined_stride(payload(
                {{100, 1, 1}, {100, 2, 9ull << 60}, {100, 1, 2}, {100, 2, 9ull << 60 | 1}})),
            100u);
}

TEST(JoinedStride, LetsSamplingBitsDiffer) {
  EXPECT_EQ(joined_stride(payload({{100}, {.size = 100, .flags = 0xc1}, {100}})), 100u);
}

}  // namespace
}  // namespace psp::pcap
