// SPDX-License-Identifier: Apache-2.0
//
// Where the IP packet lies behind each link layer and in each tunnel, at every length of the frame,
// and which frames are said not to be understood. Frames are put together by hand, each with a
// known packet inside: where that begins is the right answer. Every tunnel is cut at every length,
// and no answer may lie beyond the end. Captures of real mirror ports are not here.
#include "pcap/link.hh"

#include <algorithm>
#include <gtest/gtest.h>
#include <string_view>
#include <utility>
#include <vector>

#include "pcap/record.hh"
#include "wire/bytes.hh"

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
  for (const auto link : {kLinkRawBsd, kLinkRawOpenBsd}) EXPECT_EQ(find_ip(link, raw)->family, 6);
  EXPECT_FALSE(find_ip(105, raw));
}

TEST(FindIp, TellsWhatHoldsNoIpFromWhatItDoesNotKnow) {
  const auto understood = [](std::uint32_t link, const Octets& frame) {
    return find_ip(link, frame).error().understood;
  };
  for (const int type : {0x0806, 0x88cc, 0x8863, 0x0026})
    EXPECT_TRUE(understood(kLinkEthernet, ethernet({static_cast<std::uint16_t>(type)}))) << type;
  for (const int type : {0x88e5, 0x894f, 0x0600})
    EXPECT_FALSE(understood(kLinkEthernet, ethernet({static_cast<std::uint16_t>(type)}))) << type;
  EXPECT_FALSE(understood(kLinkEthernet, ethernet({0x8100, 0x8100, 0x8100, 0x0800})));
  EXPECT_FALSE(understood(105, {0x45}));
  EXPECT_FALSE(understood(kLinkRaw, {0x10}));
  EXPECT_FALSE(understood(kLinkEthernet, Octets(13)));
}

void append(Octets& to, const Octets& more) { to.insert(to.end(), more.begin(), more.end()); }

Octets ip(std::uint8_t protocol, const Octets& payload) {
  Octets packet(20);
  packet[0] = 0x45;
  wire::store_be(packet.data() + 2, static_cast<std::uint16_t>(20 + payload.size()));
  packet[9] = protocol;
  append(packet, payload);
  return packet;
}

Octets udp(std::uint16_t port, const Octets& payload) {
  Octets datagram(8);
  wire::store_be(datagram.data() + 2, port);
  wire::store_be(datagram.data() + 4, static_cast<std::uint16_t>(8 + payload.size()));
  append(datagram, payload);
  return datagram;
}

Octets framed(std::uint16_t type, const Octets& payload) {
  Octets frame(12, 0xaa);
  frame.push_back(static_cast<std::uint8_t>(type >> 8));
  frame.push_back(static_cast<std::uint8_t>(type));
  append(frame, payload);
  return frame;
}

Octets behind(Octets header, const Octets& payload) {
  append(header, payload);
  return header;
}

const Octets kInner = ip(6, Octets(20));
const Octets kInnerFrame = framed(0x0800, kInner);

// kTunnelled is outer IP packets with kInner somewhere inside, and what the tunnel is called.
const std::vector<std::pair<std::string_view, Octets>> kTunnelled = {
    {"GRE", ip(47, behind({0x00, 0, 0x08, 0x00}, kInner))},
    {"GRE", ip(47, behind({0xb0, 0, 0x65, 0x58, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, kInnerFrame))},
    {"GRE", ip(47, behind({0x00, 0, 0x88, 0x47, 0, 0, 0x11, 64}, kInner))},
    {"ERSPAN", ip(47, behind({0x00, 0, 0x88, 0xbe}, kInnerFrame))},
    {"ERSPAN",
     ip(47, behind({0x10, 0, 0x88, 0xbe, 0, 0, 0, 7, 0x10, 0, 0, 1, 0, 0, 0, 0}, kInnerFrame))},
    {"ERSPAN", ip(47, behind(behind({0x10, 0, 0x22, 0xeb, 0, 0, 0, 7}, behind({0x20}, Octets(11))),
                             kInnerFrame))},
    {"ERSPAN", ip(47, behind(behind(behind({0x10, 0, 0x22, 0xeb, 0, 0, 0, 7}, Octets(11)), {0x01}),
                             behind(Octets(8), kInnerFrame)))},
    {"ERSPAN", ip(47, behind(behind({0x10, 0, 0x22, 0xeb, 0, 0, 0, 7}, Octets(10)),
                             behind({0x08, 0x00}, kInner)))},
    {"VXLAN", ip(17, udp(4789, behind({8, 0, 0, 0, 0, 0, 5, 0}, kInnerFrame)))},
    {"VXLAN", ip(17, udp(8472, behind({8, 0, 0, 0, 0, 0, 5, 0}, kInnerFrame)))},
    {"Geneve", ip(17, udp(6081, behind({1, 0, 0x65, 0x58, 0, 0, 5, 0, 1, 2, 3, 4}, kInnerFrame)))},
    {"Geneve", ip(17, udp(6081, behind({0, 0, 0x08, 0x00, 0, 0, 5, 0}, kInner)))},
    {"IP in IP", ip(4, kInner)},
    {"VXLAN", ip(4, ip(17, udp(4789, behind({8, 0, 0, 0, 0, 0, 5, 0}, kInnerFrame))))},
};

TEST(FindIp, LooksIntoTunnelsIfAsked) {
  for (const auto& [name, outer] : kTunnelled) {
    const Octets frame = framed(0x0800, outer);
    const auto found = find_ip(kLinkEthernet, frame, Reach::kTunnels);
    ASSERT_TRUE(found) << name << ": " << found.error().why;
    EXPECT_EQ(found->ip_at, frame.size() - kInner.size()) << name;
    EXPECT_EQ(found->tunnel, name);
    EXPECT_EQ(found->shim, name == "GRE" && frame[36] == 0x88 ? "MPLS" : "");
    const auto near = find_ip(kLinkEthernet, frame);
    ASSERT_TRUE(near) << name;
    EXPECT_EQ(near->ip_at, 14u) << name;
    EXPECT_EQ(near->tunnel, "");
    const auto bare = find_ip(kLinkRaw, outer, Reach::kTunnels);
    ASSERT_TRUE(bare) << name;
    EXPECT_EQ(bare->head_size, 0u) << "there is no Ethernet in this kind of file";
  }
}

TEST(FindIp, NeverLooksBeyondTheFrame) {
  for (const auto& [name, outer] : kTunnelled)
    for (std::size_t size = 0; size < outer.size(); ++size) {
      Octets cut(outer.begin(), outer.begin() + static_cast<std::ptrdiff_t>(size));
      if (size >= 20) wire::store_be(cut.data() + 2, static_cast<std::uint16_t>(size));
      const auto found = find_ip(kLinkRaw, cut, Reach::kTunnels);
      EXPECT_TRUE(!found || found->ip_at <= size) << name;
    }
}

TEST(FindIp, BelievesNoTunnelHeaderThatIsLongerThanTheFrame) {
  for (const Octets& outer :
       {ip(47, {0xb0, 0, 0x08, 0x00}), ip(17, udp(6081, {0x3f, 0, 0x08, 0x00, 0, 0, 5, 0}))}) {
    const auto found = find_ip(kLinkRaw, outer, Reach::kTunnels);
    ASSERT_FALSE(found);
    EXPECT_EQ(found.error().why, "cut short inside a link or tunnel header");
  }
}

TEST(FindIp, SaysThatItDoesNotKnowWhatIsInATunnel) {
  const auto why = [](const Octets& outer) {
    const auto found = find_ip(kLinkRaw, outer, Reach::kTunnels);
    return found || found.error().understood ? "" : found.error().why;
  };
  EXPECT_EQ(why(ip(47, {0, 1, 0x88, 0x0b, 0, 0, 0, 0})), "a kind of GRE not known here");
  EXPECT_EQ(why(ip(47, {0, 0, 0x88, 0x0b, 0, 0, 0, 0})), "an EtherType not known here");
  EXPECT_EQ(why(ip(47, {0})), "cut short inside a link or tunnel header");
  Octets fragment = kTunnelled[0].second;
  fragment[6] = 0x20;
  EXPECT_EQ(why(fragment), "a fragment of a tunnel's packet");
  Octets deep = kInner;
  for (int i = 0; i < 8; ++i) deep = ip(4, deep);
  EXPECT_EQ(why(deep), "more than 8 IP packets in one another");
  // ARP on a mirrored port, and UDP that only has the port of a tunnel.
  EXPECT_EQ(why(ip(47, behind({0, 0, 0x88, 0xbe}, framed(0x0806, Octets(28))))), "");
  EXPECT_TRUE(find_ip(kLinkRaw, ip(17, udp(4789, Octets(50))), Reach::kTunnels));
}

TEST(FindIp, LooksBehindMplsPppoeAndOtherTags) {
  const auto at = [](const Octets& frame) {
    const auto found = find_ip(kLinkEthernet, frame, Reach::kTunnels);
    return found ? frame.size() - found->ip_at : 0;
  };
  EXPECT_EQ(at(framed(0x9100, behind({0, 5, 0x81, 0, 0, 7, 8, 0}, kInner))), kInner.size());
  EXPECT_EQ(at(framed(0x8847, behind({0, 1, 0x00, 64, 0, 2, 0x01, 64}, kInner))), kInner.size());
  EXPECT_EQ(at(framed(0x8848, behind({0, 1, 0x01, 64, 0, 0, 0, 0}, kInnerFrame))), kInner.size());
  EXPECT_EQ(at(framed(0x8864, behind({0x11, 0, 0, 1, 0, 42, 0x00, 0x21}, kInner))), kInner.size());
  EXPECT_EQ(find_ip(kLinkEthernet, framed(0x8864, {0x11, 0, 0, 1, 0, 42, 0xc0, 0x21})).error().why,
            "not IP");
  EXPECT_FALSE(find_ip(kLinkEthernet, framed(0x8847, Octets(100))).error().understood);
  Octets cooked(16);
  cooked[14] = 0x81;
  EXPECT_EQ(find_ip(kLinkSll, behind(behind(cooked, {0, 7, 8, 0}), kInner))->ip_at, 20u);
}

// head is the link header that a packet of `family` gets.
Octets head(std::uint32_t link_type, const Octets& frame, std::uint8_t family) {
  const auto link = find_ip(link_type, frame, Reach::kTunnels);
  Octets out(link->head_size);
  return write_head(out.data(), link_type, frame, *link, family) ? out : Octets{0};
}

TEST(WriteHead, ChangesTheEtherTypeWhereThereIsOne) {
  const auto frame = ethernet({0x8100, 0x0800});
  EXPECT_EQ(head(kLinkEthernet, frame, 4), Octets(frame.begin(), frame.end() - 1));
  EXPECT_EQ(find_ip(kLinkEthernet, head(kLinkEthernet, frame, 6))->family, 6);
  EXPECT_EQ(head(kLinkIpv4, {0x45}, 4), Octets{});
  EXPECT_EQ(head(kLinkIpv4, {0x45}, 6), Octets{0}) << "it cannot say that";
  EXPECT_EQ(head(kLinkRaw, {0x45}, 6), Octets{});
}

TEST(WriteHead, LeavesOutWhatWouldBeWrongAroundAnotherPacket) {
  const Octets plain(kInnerFrame.begin(), kInnerFrame.begin() + 14);
  EXPECT_EQ(head(kLinkEthernet, framed(0x8847, behind({0, 2, 0x01, 64}, kInner)), 4), plain);
  EXPECT_EQ(head(kLinkEthernet, framed(0x8864, behind({0x11, 0, 0, 1, 0, 42, 0, 0x21}, kInner)), 4),
            plain);
  const Octets outside = behind(Octets(12, 0xbb), {0x08, 0x00});
  for (const auto& [name, outer] : kTunnelled) {
    const bool framed_inside = std::search(outer.begin(), outer.end(), kInnerFrame.begin(),
                                           kInnerFrame.end()) != outer.end();
    EXPECT_EQ(head(kLinkEthernet, behind(outside, outer), 4), framed_inside ? plain : outside)
        << name;
  }
  EXPECT_EQ(head(kLinkIpv4, kTunnelled.front().second, 6), Octets{0});
}

}  // namespace
}  // namespace psp::pcap
