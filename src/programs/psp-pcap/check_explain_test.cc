// SPDX-License-Identifier: Apache-2.0
//
// psp-pcap check and explain: what they find and say of packets as they were on the wire. The tool
// runs as a child process on files of the test; what it prints is JSON, and read as such.
//
// Good packets are made by psp-pcap encrypt, then damaged octet by octet, so each report has one
// known cause. What sockets do with a packet is compared with the state table in words, written out
// here; that explain says what a device does is in conformance/corpus_test.cc.
#include <gmock/gmock.h>

#include "tool_fixtures.hh"

namespace psp::pcap_tool {
namespace {

using namespace test;
using testing::HasSubstr;

TEST_F(CheckTest, IsContentWithGoodTraffic) {
  const auto report = check(good(), 0);
  EXPECT_EQ(report["problems"], 0);
  const auto& flow = report["flows"][0];
  EXPECT_EQ(flow["spi"], "1a345678");
  EXPECT_EQ(flow["source"], "0.0.0.1");
  EXPECT_EQ(flow["packets"], 3);
  EXPECT_EQ(flow["icv-good"], 3);
  EXPECT_EQ(flow["iv-first"], 1);
  EXPECT_EQ(flow["iv-last"], 3);
}

TEST_F(CheckTest, SaysIfItCouldNotCheckTheIcv) {
  const auto report = check(good(), 0, false);
  EXPECT_EQ(report["keys"], false);
  EXPECT_EQ(report["flows"][0]["icv-unchecked"], 3);
  EXPECT_THAT(run({"check", "-r", path("psp")}).out, HasSubstr("ICVs were NOT checked"));
}

TEST_F(CheckTest, FindsReusedIvsAndOnlyThose) {
  const auto packets = good();
  // The same packet again is a duplicate, and order may change on the way.
  auto report = check({packets[0], packets[2], packets[1], packets[1]}, 0);
  EXPECT_EQ(report["flows"][0]["iv-late"], 1);
  EXPECT_EQ(report["flows"][0]["iv-duplicates"], 1);
  EXPECT_EQ(report["flows"][0]["iv-reused"], 0);
  EXPECT_EQ(encrypt(pcap_of({ethernet(tcp_packet(4, 0x10, 11))}), {"--iv", "2"}).status, 0);
  auto mixed = packets;
  mixed.push_back(sealed()[0]);
  report = check(mixed, 1);
  EXPECT_EQ(report["flows"][0]["iv-reused"], 1);
  EXPECT_THAT(err_, HasSubstr("packet 4: IV used before"));
}

TEST_F(CheckTest, NamesEachKindOfProblem) {
  const auto packets = good();
  constexpr std::size_t kUdp = 14 + 20, kPsp = kUdp + 8;
  auto reserved = packets[0];
  reserved[kPsp + 2] |= 0x40;
  auto report = check({reserved}, 1);
  EXPECT_EQ(report["flows"][0]["reserved-bits"], 1);
  EXPECT_EQ(report["flows"][0]["icv-wrong"], 1);
  auto udp = packets[0];
  udp[kUdp + 6] = 0x12;
  report = check({packets[1], udp}, 1);
  EXPECT_EQ(report["flows"][0]["udp-checksum-wrong"], 1);
  EXPECT_THAT(err_, HasSubstr("packet 2: UDP checksum is wrong"));
  auto length = packets[0];
  length[kUdp + 5] ^= 1;
  report = check({length}, 1);
  EXPECT_THAT(err_, HasSubstr("packet 1: BAD_LENGTH"));
  EXPECT_EQ(report["no-good-psp"], 1);
  auto header = packets[0];
  header[14 + 8] ^= 1;
  check({header}, 1);
  EXPECT_THAT(err_, HasSubstr("packet 1: BAD_IP"));
  auto spi = packets[0];
  spi[kPsp + 7] ^= 1;
  check({spi}, 1);
  EXPECT_THAT(err_, HasSubstr("packet 1: no key for this SPI"));
  auto inner = ethernet(tcp_packet(4, 0x10, 10));
  inner[14 + 20 + 16] ^= 1;
  EXPECT_EQ(encrypt(pcap_of({inner}), {}).status, 0);
  report = check(sealed(), 1);
  EXPECT_EQ(report["flows"][0]["inner-checksum-wrong"], 1);
}

TEST_F(ExplainTest, FollowsTheStateTableForOpenedPackets) {
  const auto line = explain({good()[0]})[0];
  EXPECT_EQ(line["verdict"], "deliver");
  EXPECT_EQ(line["counter"], "rx-packets");
  EXPECT_EQ(line["psp"]["iv"], 1);
  EXPECT_EQ(line["states"]["none"]["reason"], "POLICY_NO_ASSOC");
  EXPECT_EQ(line["states"]["rx"]["verdict"], "accept");
  EXPECT_EQ(line["states"]["tx"]["note"], "becomes full");
  EXPECT_EQ(line["states"]["full"]["verdict"], "accept");
}

TEST_F(ExplainTest, FollowsTheStateTableForClearPackets) {
  const auto lines = explain({ethernet(tcp_packet(4, 0x10, 5)), ethernet(tcp_packet(6, 0x10, 0)),
                              ethernet(tcp_packet(4, 0x11, 0)), ethernet(tcp_packet(4, 0x02, 0)),
                              ethernet(ip_packet(4, 17, octets_of(9)))});
  const auto at = [&](std::size_t line, const char* state) {
    return lines[line]["states"][state]["verdict"].get<std::string>();
  };
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(lines[i]["verdict"], "pass");
    EXPECT_EQ(at(i, "none") + at(i, "rx") + at(i, "full"), "acceptacceptdrop") << i;
  }
  EXPECT_EQ(at(0, "tx"), "drop");
  EXPECT_EQ(lines[0]["states"]["tx"]["reason"], "POLICY_CLEAR");
  EXPECT_EQ(at(1, "tx"), "accept");
  EXPECT_EQ(at(2, "tx"), "accept");
  EXPECT_THAT(lines[2]["states"]["tx"]["note"].get<std::string>(), HasSubstr("tx-assoc"));
  EXPECT_EQ(at(3, "tx"), "drop");
  EXPECT_FALSE(lines[4].contains("states"));
}

TEST_F(ExplainTest, CallsAnUrgentPointerDataAsTheSocketDoes) {
  const auto line = explain({ethernet(tcp_packet(4, 0x30, 0))})[0];
  EXPECT_EQ(line["why"], "TCP without PSP: clear data");
  EXPECT_EQ(line["states"]["tx"]["reason"], "POLICY_CLEAR");
}

TEST_F(ExplainTest, GivesReasonAndCounter) {
  auto packets = good();
  packets[0].back() ^= 1;
  packets[1][14 + 20 + 8 + 7] ^= 1;
  packets[2][14 + 20 + 8 + 3] = 0x11;  // version 4
  const auto lines = explain(packets);
  EXPECT_EQ(lines[0]["reason"], "AUTH_FAIL");
  EXPECT_EQ(lines[0]["counter"], "rx-auth-fail");
  EXPECT_EQ(lines[1]["reason"], "UNKNOWN_KEY");
  EXPECT_EQ(lines[2]["reason"], "BAD_VERSION");
  EXPECT_EQ(lines[2]["counter"], "rx-bad");
  EXPECT_EQ(explain({good()[0]}, {"--enable", "1"})[0]["verdict"], "pass");
  ASSERT_EQ(encrypt(pcap_of({ethernet(ip_packet(4, 17, octets_of(9)))}), {}).status, 0);
  EXPECT_EQ(explain(sealed())[0]["reason"], "BAD_INNER");
  const auto text = run({"explain", "-r", write("in", pcap_of({good()[0]}))});
  EXPECT_THAT(text.out,
              HasSubstr("1: drop UNKNOWN_KEY (rx-bad): no key for this SPI was given here"));
}

TEST_F(ExplainTest, LeavesFragmentsAndTaggedPacketsToTheStack) {
  auto fragment = good()[0];
  fragment[14 + 6] = 0x20;
  Octets packet(fragment.begin() + 14, fragment.end());
  put_ip_checksum(packet);
  auto whole = good()[0];
  const auto lines = explain({ethernet(packet), ethernet({whole.begin() + 14, whole.end()}, true)});
  EXPECT_EQ(lines[0]["verdict"], "pass");
  EXPECT_THAT(lines[0]["why"].get<std::string>(), HasSubstr("fragment"));
  EXPECT_EQ(lines[1]["verdict"], "pass");
  EXPECT_THAT(lines[1]["why"].get<std::string>(), HasSubstr("VLAN"));
}

}  // namespace
}  // namespace psp::pcap_tool
