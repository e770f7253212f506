// SPDX-License-Identifier: Apache-2.0
//
// psp-pcap and packets that are not as they were on the wire: several datagrams joined to one by
// offloads, wrapped by a mirror port or an access network, or of a kind that is not understood.
//
// What offloads and mirror ports do is written out here, octet by octet; the oracle is what the
// tool says of the same packets without it. The threat is a report that calls good what nobody
// looked at: a forgery inside a joined packet, and traffic that cannot be read, must show in the
// exit status.
#include <gmock/gmock.h>

#include "tool_fixtures.hh"

namespace psp::pcap_tool {
namespace {

using namespace test;
using testing::HasSubstr;
using testing::Not;

TEST_F(JoinedTest, IsTakenApartByCheck) {
  const auto packets = train();
  auto report = check({joined(packets)}, 0);
  EXPECT_EQ(report["packets"], 1);
  EXPECT_EQ(report["psp"], 3);
  EXPECT_EQ(report["joined"], 1);
  EXPECT_EQ(report["problems"], 0);
  const auto& flow = report["flows"][0];
  EXPECT_EQ(flow["icv-good"], 3);
  EXPECT_EQ(flow["iv-last"], 3);
  EXPECT_EQ(flow["udp-checksum-incomplete"], 3);
  EXPECT_THAT(run({"check", "-r", path("psp")}).out, HasSubstr("1 packet held several datagrams"));
  report = check({joined(packets)}, 0, false);
  EXPECT_EQ(report["flows"][0]["icv-unchecked"], 3) << "without a key too";
}

TEST_F(JoinedTest, HidesNoForgery) {
  auto packets = train();
  packets[1].back() ^= 1;
  auto report = check({joined(packets)}, 1);
  EXPECT_EQ(report["flows"][0]["icv-good"], 2);
  EXPECT_EQ(report["flows"][0]["icv-wrong"], 1);
  // Another packet under an IV that was used: also inside one packet of the capture.
  packets = train();
  EXPECT_EQ(encrypt(pcap_of({ethernet(tcp_packet(4, 0x18, 90))}), {}).status, 0);
  packets[1] = sealed()[0];
  report = check({joined(packets)}, 1);
  EXPECT_EQ(report["flows"][0]["iv-reused"], 1);
}

TEST_F(JoinedTest, IsNotWhatTheIcvSaysIsOneDatagram) {
  // The payload looks like more PSP packets at equal steps, and GMAC leaves it in clear.
  write_text("key", kSaKey);
  Octets repeated(20);
  repeated[12] = 0x50;
  for (int i = 0; i < 4; ++i) {
    Octets header{6, 1, 0, 0x09, 0x1a, 0x34, 0x56, 0x78, 0, 0, 0, 0, 0, 0, 0, 1};
    header.resize(i < 3 ? 36 : 16);
    repeated.insert(repeated.end(), header.begin(), header.end());
  }
  ASSERT_EQ(
      run({"encrypt", "-r", write("clear", pcap_of({ethernet(ip_packet(4, 6, repeated))})), "-w",
           path("psp"), "--spi", "1a345678", "--psp-version", "2", "--sa-key", path("key")})
          .status,
      0);
  const auto result = run({"check", "--json", "-r", path("psp"), "--key-log",
                           write_text("log", "PSP_SA 2 1a345678 " + kSaKey + "\n")});
  const auto report = nlohmann::json::parse(result.out);
  EXPECT_EQ(report["psp"], 1);
  EXPECT_EQ(report["flows"][0]["icv-good"], 1);
  const auto unkeyed = run({"check", "--json", "-r", path("psp")});
  EXPECT_EQ(nlohmann::json::parse(unkeyed.out)["psp"], 5) << "nobody can tell without a key";
}

TEST_F(JoinedTest, IsDecryptedToEachOfItsPackets) {
  const auto one = joined(train());
  FileMaker maker;
  maker.section().interface().enhanced(one);
  for (const Octets& file : {pcap_of({one}), maker.made}) {
    write("psp", file);
    const auto result = decrypt();
    EXPECT_EQ(result.status, 0) << result.err;
    EXPECT_THAT(result.err, HasSubstr("decrypted 3 packets"));
    auto expected = clear_;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      Octets packet(expected[i].begin() + 14, expected[i].end());
      packet[5] = static_cast<std::uint8_t>(i);  // segmentation counts the identification up
      put_ip_checksum(packet);
      expected[i] = ethernet(packet);
    }
    EXPECT_EQ(packets_of(read_file(path("again"))), expected);
  }
}

TEST_F(JoinedTest, IsExplainedByDatagram) {
  auto packets = train();
  packets[1].back() ^= 1;
  write("in", pcap_of({joined(packets)}));
  const auto result = run({"explain", "--json", "-r", path("in"), "--key-log",
                           write_text("log", "PSP_SA 0 1a345678 " + kSaKey + "\n")});
  std::vector<nlohmann::json> lines;
  std::istringstream stream(result.out);
  for (std::string line; std::getline(stream, line);) lines.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(lines.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(lines[i]["packet"], 1);
    EXPECT_EQ(lines[i]["datagram"], i + 1);
    EXPECT_EQ(lines[i]["datagrams"], 3);
    EXPECT_EQ(lines[i]["verdict"], i == 1 ? "drop" : "deliver");
  }
  EXPECT_THAT(run({"explain", "-r", path("in")}).out, HasSubstr("(datagram 3 of 3)"));
}

// MirrorTest: one sealed packet as mirror ports and access networks wrap it.
class MirrorTest : public JoinedTest {
 protected:
  static Octets with(const Octets& frame, std::size_t at, const Octets& more) {
    Octets out(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(at));
    out.insert(out.end(), more.begin(), more.end());
    out.insert(out.end(), frame.begin() + static_cast<std::ptrdiff_t>(at), frame.end());
    return out;
  }
  static Octets in_ip(std::uint8_t protocol, Octets header, const Octets& frame) {
    header.insert(header.end(), frame.begin(), frame.end());
    if (protocol == 17)
      wire::store_be(header.data() + 4, static_cast<std::uint16_t>(header.size()));
    return ethernet(ip_packet(4, protocol, header, 77));
  }
  static std::vector<Octets> wrapped(const Octets& frame) {
    Octets mpls = with(frame, 14, {0, 1, 1, 64}),
           pppoe = with(frame, 14, {0x11, 0, 0, 1, 0, 0, 0, 0x21});
    mpls[12] = 0x88, mpls[13] = 0x47, pppoe[12] = 0x88, pppoe[13] = 0x64;
    return {in_ip(47, {0x10, 0, 0x88, 0xbe, 0, 0, 0, 7, 0x10, 0, 0, 1, 0, 0, 0, 0}, frame),
            in_ip(17, {0x30, 0, 0x12, 0xb5, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 5, 0}, frame),
            in_ip(17, {0x30, 0, 0x17, 0xc1, 0, 0, 0, 0, 0, 0, 0x65, 0x58, 0, 0, 5, 0}, frame),
            with(frame, 12, {0x91, 0, 0, 5, 0x81, 0, 0, 7}),
            mpls,
            pppoe};
  }
};

TEST_F(MirrorTest, ChecksWhatIsInsideEachWrapping) {
  const auto packets = wrapped(train()[0]);
  const auto report = check(packets, 0);
  EXPECT_EQ(report["psp"], packets.size());
  EXPECT_EQ(report["flows"].size(), 1u);
  EXPECT_EQ(report["flows"][0]["icv-good"], packets.size());
  EXPECT_EQ(report["not-understood"], 0);
  EXPECT_EQ(check(wrapped(joined(train())), 0)["psp"], 3 * packets.size());
}

TEST_F(MirrorTest, DecryptsToPlainEthernet) {
  const auto packets = wrapped(train()[0]);
  write("psp", pcap_of(packets));
  ASSERT_EQ(decrypt().status, 0);
  const auto again = packets_of(read_file(path("again")));
  ASSERT_EQ(again.size(), packets.size());
  for (std::size_t i = 0; i < again.size(); ++i)
    EXPECT_EQ(again[i], i == 3 ? with(clear_[0], 12, {0x91, 0, 0, 5, 0x81, 0, 0, 7}) : clear_[0])
        << i;
}

TEST_F(MirrorTest, ExplainsAsIfThePacketHadComeByItself) {
  const auto lines = explain(wrapped(train()[0]));
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(lines[i]["verdict"], "deliver") << i;
  EXPECT_EQ(lines[0]["inside"], "ERSPAN");
  EXPECT_EQ(lines[1]["inside"], "VXLAN");
  for (std::size_t i = 3; i < 6; ++i) EXPECT_EQ(lines[i]["verdict"], "pass") << i;
  EXPECT_THAT(lines[4]["why"].get<std::string>(), HasSubstr("MPLS"));
}

TEST_F(MirrorTest, DoesNotTakeACookedCaptureForATaggedOne) {
  const Octets frame = train()[0];
  Octets cooked(16);
  cooked[14] = 0x08;
  cooked.insert(cooked.end(), frame.begin() + 14, frame.end());
  write("in", pcap_of({cooked}, pcap::kLinkSll));
  EXPECT_THAT(run({"explain", "-r", path("in"), "--key-log", path("log")}).status, 4);
  EXPECT_THAT(run({"explain", "-r", path("in"), "--key-log",
                   write_text("log", "PSP_SA 0 1a345678 " + kSaKey + "\n")})
                  .out,
              HasSubstr("1: deliver"));
}

TEST_F(MirrorTest, SealsTheOuterPacketOfATunnel) {
  // A tunnel's packet is an IP packet: what is given to be sealed is sealed whole.
  const auto tunnel = wrapped(train()[0])[0];
  ASSERT_EQ(encrypt(pcap_of({tunnel}), {}).status, 0);
  EXPECT_EQ(sealed()[0].size(), tunnel.size() + 40);
}

TEST_F(MirrorTest, NeverCallsUnreadTrafficGood) {
  Octets macsec = train()[0];
  macsec[12] = 0x88, macsec[13] = 0xe5;
  auto report = check({macsec, train()[0]}, 6);
  EXPECT_EQ(report["not-understood"], 1);
  EXPECT_THAT(
      err_,
      HasSubstr("1 packet not understood: an EtherType not known here (the first is packet 1)"));
  report = check({macsec}, 6, false);
  const auto text = run({"check", "-r", path("psp")});
  EXPECT_EQ(text.status, 6);
  EXPECT_THAT(text.out, HasSubstr("NOTHING was checked"));
  EXPECT_THAT(text.out, Not(HasSubstr("0 problems")));
  EXPECT_EQ(run({"explain", "-r", path("psp")}).status, 6);
  EXPECT_EQ(decrypt().status, 6);
  EXPECT_THAT(decrypt().err, HasSubstr("passed over 1 (1 not understood)"));
  EXPECT_EQ(encrypt(pcap_of({macsec}), {}).status, 6);
  // Nothing that could be checked, of a kind that is known or none at all.
  check({clear_[0]}, 6);
  check({}, 6);
  EXPECT_EQ(decrypt().status, 6);
  EXPECT_THAT(decrypt().err, HasSubstr("there was no PSP packet to decrypt"));
  // A problem weighs more.
  auto wrong = train()[0];
  wrong.back() ^= 1;
  check({macsec, wrong}, 1);
}

}  // namespace
}  // namespace psp::pcap_tool
