// SPDX-License-Identifier: Apache-2.0
//
// The Internet checksum against a sum taken word by word as RFC 1071 writes it down, at every
// alignment and length, and against sums known from elsewhere: the example of RFC 1071, section 3,
// and an IPv4 header with its checksum. All bits set show a carry that is lost; random octets, cut
// into pieces at even places, that sums may be taken in parts. The pseudo headers of IPv4 and IPv6
// are added up by hand. How fast it is: bench/crypto_bench.cc.
#include "wire/checksum.hh"

#include <array>
#include <cstdint>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <span>
#include <vector>

namespace psp::wire {
namespace {

using Octets = std::vector<std::uint8_t>;

// plain_sum is the definition: big-endian 16-bit words, an odd last octet padded with zero.
std::uint64_t plain_sum(std::span<const std::uint8_t> octets) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < octets.size(); ++i)
    sum += i % 2 == 0 ? std::uint64_t{octets[i]} << 8 : octets[i];
  return sum;
}

std::uint16_t plain_fold(std::uint64_t sum) {
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(sum);
}

TEST(Checksum, IsThatOfTheExampleInRfc1071) {
  constexpr std::array<std::uint8_t, 8> octets = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
  EXPECT_EQ(checksum_fold(checksum_add(0, octets)), 0xddf2);
}

TEST(Checksum, OfAnIpv4HeaderWithItsChecksumIsAllOnes) {
  constexpr std::array<std::uint8_t, 20> header = {0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40,
                                                   0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8,
                                                   0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7};
  EXPECT_EQ(checksum_fold(checksum_add(0, header)), 0xffff);
}

TEST(Checksum, AgreesWithTheDefinitionAtEveryAlignmentAndLength) {
  Octets memory(256 + 16);
  for (std::size_t i = 0; i < memory.size(); ++i)
    memory[i] = static_cast<std::uint8_t>(i * 167 + 13);
  for (std::size_t start = 0; start < 16; ++start) {
    for (std::size_t length = 0; length <= 256; ++length) {
      const auto octets = std::span<const std::uint8_t>(memory).subspan(start, length);
      ASSERT_EQ(checksum_fold(checksum_add(0, octets)), plain_fold(plain_sum(octets)))
          << "start " << start << " length " << length;
    }
  }
}

TEST(Checksum, LosesNoCarryWhenAllBitsAreSet) {
  for (std::size_t length = 0; length <= 300; ++length) {
    const Octets ones(length, 0xff);
    ASSERT_EQ(checksum_fold(checksum_add(0, ones)), plain_fold(plain_sum(ones))) << length;
  }
  const Octets big(65535, 0xff);
  EXPECT_EQ(checksum_fold(checksum_add(0xffff, big)), plain_fold(0xffff + plain_sum(big)));
}

TEST(Checksum, OfNothingLeavesTheSum) {
  EXPECT_EQ(checksum_add(0x12345, {}), 0x12345u);
  EXPECT_EQ(checksum_fold(0), 0);
}

RC_GTEST_PROP(ChecksumProperty, AgreesWithTheDefinition, (const Octets& octets)) {
  RC_ASSERT(checksum_fold(checksum_add(0, octets)) == plain_fold(plain_sum(octets)));
}

RC_GTEST_PROP(ChecksumProperty, IsTheSumOfItsPieces, (const Octets& octets)) {
  const auto cut = 2 * *rc::gen::inRange<std::size_t>(0, octets.size() / 2 + 1);
  const std::span<const std::uint8_t> all(octets);
  const auto pieces = checksum_add(checksum_add(0, all.first(cut)), all.subspan(cut));
  RC_ASSERT(checksum_fold(pieces) == checksum_fold(checksum_add(0, all)));
}

RC_GTEST_PROP(ChecksumProperty, FoldsEverySum, (std::uint64_t sum)) {
  RC_ASSERT(checksum_fold(sum) == plain_fold(sum));
}

TEST(PseudoHeader, CoversAddressesProtocolAndLength) {
  Octets ipv4(20, 0);
  ipv4[12] = 0x0a, ipv4[15] = 0x01;  // 10.0.0.1
  ipv4[16] = 0x0a, ipv4[19] = 0x02;  // 10.0.0.2
  EXPECT_EQ(checksum_fold(pseudo_header_sum(ipv4, 4, 6, 20)), 0x0a00 + 1 + 0x0a00 + 2 + 6 + 20);

  Octets ipv6(40, 0);
  ipv6[8] = 0x20, ipv6[23] = 0x01;   // 2000::1
  ipv6[24] = 0x20, ipv6[39] = 0x02;  // 2000::2
  EXPECT_EQ(checksum_fold(pseudo_header_sum(ipv6, 6, 17, 0x0001'0008)),
            0x2000 + 1 + 0x2000 + 2 + 17 + 1 + 8);
}

}  // namespace
}  // namespace psp::wire
