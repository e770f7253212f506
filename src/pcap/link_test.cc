// SPDX-License-Identifier: Apache-2.0
//
// Where the IP packet lies behind each link layer, at every length of the frame.
#include <gtest/gtest.h>
#include <vector>

#include <psp/pcap/link.hh>
#include <psp/pcap/record.hh>
#include <psp/wire/bytes.hh>

namespace psp::pcap {
namespace {

using Octets = std::vector<std::uint8_t>;

Octets ethernet(std::vector<std::uint16_t> types) {
  Octets frame(12, 0xee);
  for (const std::uint16_t type : types) {
    if (frame.size() > 12) frame.insert(frame.end(), {0x00, 0x07});  // tag
    frame.push_back(static_cast<std::uint8_t>(type >> 8));
    frame.push_back(static_cast<std::uint8_t>(type));
  }
  frame.push_back(0x45);
  return frame;
}

TEST(FindIp, LooksBehindEthernetAndTags) {
  EXPECT_EQ(find_ip(kLinkEthernet, ethernet({0x0800}))->ip_at, 14u);
  EXPECT_EQ(find_ip(kLinkEthernet, ethernet({0x86dd}))->family, 6);
  EXPECT_EQ(find_ip(kLinkEthernet, ethernet({0x8100, 0x0800}))->ip_at, 18u);
  EXPECT_EQ(find_ip(kLinkEthernet, ethernet({0x88a8, 0x8100, 0x86dd}))->ip_at, 22u);
  EXPECT_EQ(find_ip(kLinkEthernet, ethernet({0x88a8, 0x8100, 0x86dd}))->type_at, 20u);
  EXPECT_FALSE(find_ip(kLinkEthernet, ethernet({0x8100, 0x8100, 0x8100, 0x0800})));
  EXPECT_FALSE(find_ip(kLinkEthernet, ethernet({0x0806})));
  EXPECT_FALSE(find_ip(kLinkEthernet, ethernet({0x0026})));  // 802.3 length
}

TEST(FindIp, NeedsTheWholeLinkHeader) {
  const auto frame = ethernet({0x88a8, 0x8100, 0x86dd});
  for (std::size_t size = 0; size < 22; ++size)
    EXPECT_FALSE(find_ip(kLinkEthernet, std::span(frame).first(size))) << size;
  for (const auto link : {kLinkNull, kLinkRaw, kLinkLoop, kLinkSll, kLinkIpv4, kLinkSll2})
    EXPECT_FALSE(find_ip(link, {})) << link;
}

TEST(FindIp, KnowsTheOtherLinkTypes) {
  const Octets raw{0x60, 1, 2};
  EXPECT_EQ(find_ip(kLinkRaw, raw)->family, 6);
  EXPECT_FALSE(find_ip(kLinkRaw, Octets{0x10}));
  EXPECT_EQ(find_ip(kLinkNull, Octets{2, 0, 0, 0, 0x45})->ip_at, 4u);
  Octets sll(17);
  sll[14] = 0x08;
  EXPECT_EQ(find_ip(kLinkSll, sll)->ip_at, 16u);
  Octets sll2(21);
  sll2[0] = 0x86, sll2[1] = 0xdd;
  EXPECT_EQ(find_ip(kLinkSll2, sll2)->ip_at, 20u);
  EXPECT_FALSE(understands(105));
  EXPECT_FALSE(find_ip(105, raw));
}

TEST(SetFamily, ChangesTheEtherTypeWhereThereIsOne) {
  auto frame = ethernet({0x8100, 0x0800});
  const auto link = *find_ip(kLinkEthernet, frame);
  EXPECT_TRUE(set_family(frame.data(), kLinkEthernet, link, 6));
  EXPECT_EQ(find_ip(kLinkEthernet, frame)->family, 6);
  const auto bare = *find_ip(kLinkIpv4, Octets{0x45});
  EXPECT_TRUE(set_family(frame.data(), kLinkIpv4, bare, 4));
  EXPECT_FALSE(set_family(frame.data(), kLinkIpv4, bare, 6));
  EXPECT_TRUE(set_family(frame.data(), kLinkRaw, bare, 6));
}

}  // namespace
}  // namespace psp::pcap
