// SPDX-License-Identifier: Apache-2.0
//
// psp-pcap from outside: the reference's files bit for bit, round trips through both formats and
// all link types, what check finds, what explain says, packets that hold several datagrams or come
// from a mirror port, and what it does with files that are no good.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <nlohmann/json.hpp>
#include <sstream>

#include <psp/crypto/aead.hh>
#include <psp/wire/tunnel.hh>

#include "test_support.hh"

namespace psp::pcap_tool {
namespace {

using namespace test;
using testing::HasSubstr;
using testing::Not;

const std::filesystem::path kVectors = PSP_VECTORS_DIR;
const std::string kDeviceKeys =
    "34448a064292601b11a0978f56a2d34cf3fc35ede1a6bc04f8db3e5243a2b0ca\n"
    "563952565d3a78ae773ec1b779f2f2d99f4a7f53a6fbb9b07d5b71f39364d739\n";
const std::string kSaKey = "000102030405060708090a0b0c0d0e0f";

struct Row {
  std::string encrypted, clear, cfg;
};

std::vector<Row> manifest() {
  std::ifstream stream(kVectors / "manifest.tsv");
  std::string line;
  std::getline(stream, line);
  std::vector<Row> rows;
  while (std::getline(stream, line)) {
    std::istringstream fields(line);
    Row row;
    std::getline(fields, row.encrypted, '\t');
    std::getline(fields, row.clear, '\t');
    std::getline(fields, row.cfg, '\t');
    rows.push_back(row);
  }
  return rows;
}

std::string backends() { return crypto::ipsec_mb_backend() ? "ipsec-mb openssl" : "openssl"; }

class ReferenceTest : public ToolTest {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kVectors / "manifest.tsv"))
      GTEST_SKIP() << "no reference vectors: " << kVectors << " is missing (set PSP_VECTORS_DIR)";
    ToolTest::SetUp();
  }
};

TEST_F(ReferenceTest, EncryptsEveryFileBitForBit) {
  const auto rows = manifest();
  ASSERT_EQ(rows.size(), 52u);
  std::istringstream names(backends());
  for (std::string backend; names >> backend;) {
    for (const Row& row : rows) {
      const auto result = run({"encrypt", "--backend", backend, "--cfg", kVectors / row.cfg, "-r",
                               kVectors / row.clear, "-w", path("out")});
      ASSERT_EQ(result.status, 0) << result.err;
      EXPECT_EQ(read_file(path("out")), read_file(kVectors / row.encrypted)) << row.encrypted;
    }
  }
}

TEST_F(ReferenceTest, DecryptsEveryFileToItsClearTwin) {
  std::istringstream names(backends());
  for (std::string backend; names >> backend;) {
    for (const Row& row : manifest()) {
      const auto result =
          run({"decrypt", "--backend", backend, "--cfg", kVectors / "cfg/decrypt.cfg", "-r",
               kVectors / row.encrypted, "-w", path("out")});
      ASSERT_EQ(result.status, 0) << result.err;
      auto expected = read_file(kVectors / row.clear);
      expected[16] = 0x36, expected[17] = 0x23;  // snap length 9014: the reference's decryptor
      EXPECT_EQ(read_file(path("out")), expected) << row.encrypted;
    }
  }
}

TEST_F(ReferenceTest, TakesEveryConfigurationForDecryptionToo) {
  for (const Row& row : manifest())
    EXPECT_EQ(run({"check", "--cfg", kVectors / row.cfg, "-r", kVectors / row.encrypted}).status,
              0);
}

TEST_F(ReferenceTest, RefusesTheFileWithAFlippedReservedBit) {
  const auto result =
      run({"decrypt", "--cfg", kVectors / "cfg/decrypt.cfg", "-r",
           kVectors / "negative/v4_transport_crypt_off_128_rbit_flipped.pcap", "-w", path("out")});
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.err, HasSubstr("packet 1: AUTH_FAIL: ICV does not match"));
  EXPECT_TRUE(packets_of(read_file(path("out"))).empty());
}

class EncryptTest : public ToolTest {
 protected:
  Result encrypt(const Octets& file, std::vector<std::string> more) {
    std::vector<std::string> arguments{"encrypt",
                                       "-r",
                                       write("clear", file),
                                       "-w",
                                       path("psp"),
                                       "--spi",
                                       "1a345678",
                                       "--psp-version",
                                       "0",
                                       "--sa-key",
                                       write_text("key", kSaKey)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  }
  Result decrypt(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments{"decrypt",
                                       "-r",
                                       path("psp"),
                                       "-w",
                                       path("again"),
                                       "--key-log",
                                       write_text("log", "PSP_SA 0 1a345678 " + kSaKey + "\n")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  }
  Result encrypt_cfg(const Octets& file, const std::string& rest) {
    return run({"encrypt", "--cfg", write_text("cfg", kDeviceKeys + rest), "-r",
                write("clear", file), "-w", path("psp")});
  }
  std::vector<Octets> sealed() { return packets_of(read_file(path("psp"))); }
};

TEST_F(EncryptTest, ComesBackInBothFormatsAndByteOrders) {
  for (const bool swapped : {false, true}) {
    for (const bool next_generation : {false, true}) {
      const std::vector<Octets> packets = {
          ethernet(tcp_packet(4, 0x10, 100)), ethernet(tcp_packet(6, 0x10, 0), true),
          ethernet(ip_packet(4, 132, octets_of(33))), ethernet(ip_packet(6, 58, octets_of(8)))};
      FileMaker maker(swapped);
      maker.section().interface();
      for (const auto& packet : packets) maker.enhanced(packet);
      const auto file =
          next_generation ? maker.made : pcap_of(packets, pcap::kLinkEthernet, swapped);
      for (const std::string mode : {"transport", "tunnel"}) {
        ASSERT_EQ(encrypt(file, {"--mode", mode, "--crypt-offset", "2"}).status, 0);
        EXPECT_EQ(sealed().size(), packets.size());
        EXPECT_NE(sealed(), packets);
        ASSERT_EQ(decrypt().status, 0);
        const auto again = read_file(path("again"));
        EXPECT_EQ(packets_of(again), packets);
        EXPECT_EQ(Octets(again.begin(), again.begin() + 8), Octets(file.begin(), file.begin() + 8));
      }
    }
  }
}

TEST_F(EncryptTest, GoesThroughTunnelsOfTheOtherFamily) {
  const auto four = tcp_packet(4, 0x10, 50), six = tcp_packet(6, 0x10, 50);
  const std::vector<Octets> packets = {ethernet(four), ethernet(six, true)};
  for (const auto& [source, destination, family] :
       {std::tuple{"192.0.2.1", "192.0.2.2", 4}, std::tuple{"2001:db8::1", "2001:db8::2", 6}}) {
    ASSERT_EQ(encrypt(pcap_of(packets),
                      {"--mode", "tunnel", "--tunnel-source", source, "--tunnel-destination",
                       destination, "--hop-limit", "9", "--dscp", "10"})
                  .status,
              0);
    const auto out = sealed();
    ASSERT_EQ(out.size(), 2u);
    EXPECT_EQ(out[0][14] >> 4, family);
    EXPECT_EQ(out[1][18] >> 4, family);
    EXPECT_EQ(out[1][17], family == 4 ? 0x00 : 0xdd);
    EXPECT_EQ(out[0][14 + (family == 4 ? 8 : 7)], 9);
    ASSERT_EQ(decrypt().status, 0);
    EXPECT_EQ(packets_of(read_file(path("again"))), packets);
  }
  // Raw IP needs no EtherType; a link type for one family only cannot say it.
  ASSERT_EQ(encrypt(pcap_of({four, six}, pcap::kLinkRaw),
                    {"--mode", "tunnel", "--tunnel-source", "::1", "--tunnel-destination", "::2"})
                .status,
            0);
  EXPECT_EQ(decrypt().status, 0);
  EXPECT_EQ(packets_of(read_file(path("again"))), (std::vector<Octets>{four, six}));
  const auto refused =
      encrypt(pcap_of({four}, pcap::kLinkIpv4),
              {"--mode", "tunnel", "--tunnel-source", "::1", "--tunnel-destination", "::2"});
  EXPECT_EQ(refused.status, 1);
  EXPECT_THAT(refused.err, HasSubstr("packet 1: its link type cannot carry"));
}

TEST_F(EncryptTest, CountsIvsOfWrittenPacketsOnly) {
  auto fragment = ip_packet(4, 17, octets_of(40));
  fragment[6] = 0x20;
  put_ip_checksum(fragment);
  Octets arp = ethernet(tcp_packet(4, 0x10, 1));
  arp[12] = 0x08, arp[13] = 0x06;
  const auto result = encrypt(pcap_of({ethernet(tcp_packet(4, 0x10, 1)), arp, ethernet(fragment),
                                       ethernet(tcp_packet(4, 0x10, 2))}),
                              {"--iv", "7"});
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.err, HasSubstr("packet 3: TX_BAD_PACKET: a fragment"));
  EXPECT_THAT(result.err, HasSubstr("encrypted 2 packets, passed over 1, broken 1"));
  const auto out = sealed();
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(out[0][14 + 28 + 15], 7);
  EXPECT_EQ(out[1][14 + 28 + 15], 8);
}

TEST_F(EncryptTest, LeavesPaddingBehind) {
  auto frame = ethernet(ip_packet(4, 17, octets_of(10)));
  const auto bare = frame;
  frame.resize(60);
  ASSERT_EQ(encrypt(pcap_of({frame}), {}).status, 0);
  EXPECT_EQ(sealed()[0].size(), bare.size() + 40);
  ASSERT_EQ(decrypt().status, 0);
  EXPECT_EQ(packets_of(read_file(path("again"))), std::vector<Octets>{bare});
}

TEST_F(EncryptTest, PassesOverWhatTheReferencePassesOver) {
  const auto file =
      pcap_of({ethernet(ip_packet(6, 58, octets_of(30))), ethernet(ip_packet(4, 1, octets_of(30))),
               ethernet(ip_packet(4, 17, octets_of(11))), ethernet(tcp_packet(6, 0x10, 8921))});
  const auto result = encrypt_cfg(file, "1 transport aes-gcm-128 3 0 0 vc");
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.err, HasSubstr("encrypted 1 packets, passed over 2, broken 1"));
  EXPECT_THAT(result.err, HasSubstr("packet 4: TX_TOO_BIG: more than the 9014"));
  const auto out = sealed();
  ASSERT_EQ(out.size(), 1u);
  // Not TCP or UDP: source port 1000.
  EXPECT_EQ(wire::load_be<std::uint16_t>(out[0].data() + 34), 1000);
}

TEST_F(EncryptTest, WritesPcapngForPcapngAlsoWithAConfiguration) {
  FileMaker maker;
  maker.section().interface().enhanced(ethernet(tcp_packet(4, 0x10, 3)));
  ASSERT_EQ(encrypt_cfg(maker.made, "1 tunnel aes-gcm-256 0 6 11 no-vc").status, 0);
  EXPECT_EQ(read_file(path("psp"))[0], 0x0a);
  EXPECT_EQ(sealed().size(), 1u);
}

TEST_F(EncryptTest, KeepsOthersIfAsked) {
  Octets arp(60, 1);
  arp[12] = 0x08, arp[13] = 0x06;
  const std::vector<Octets> packets = {arp, ethernet(tcp_packet(4, 0x10, 3))};
  ASSERT_EQ(encrypt(pcap_of(packets), {"--keep"}).status, 0);
  EXPECT_EQ(sealed()[0], arp);
  ASSERT_EQ(decrypt({"--keep"}).status, 0);
  EXPECT_EQ(packets_of(read_file(path("again"))), packets);
  ASSERT_EQ(decrypt().status, 0);
  EXPECT_EQ(packets_of(read_file(path("again"))), std::vector<Octets>{packets[1]});
}

TEST_F(EncryptTest, MergesCongestionMarksOrNot) {
  auto clear = ip_packet(4, 17, octets_of(30));
  clear[1] = wire::kEct0;
  put_ip_checksum(clear);
  ASSERT_EQ(encrypt(pcap_of({clear}, pcap::kLinkRaw), {"--mode", "tunnel"}).status, 0);
  auto marked = sealed()[0];
  marked[1] = wire::kCe;
  put_ip_checksum(marked);
  write("psp", pcap_of({marked}, pcap::kLinkRaw));
  ASSERT_EQ(decrypt().status, 0);
  auto expected = clear;
  expected[1] = wire::kCe;
  put_ip_checksum(expected);
  EXPECT_EQ(packets_of(read_file(path("again"))), std::vector<Octets>{expected});
  ASSERT_EQ(decrypt({"--ecn", "ignore"}).status, 0);
  EXPECT_EQ(packets_of(read_file(path("again"))), std::vector<Octets>{clear});
}

TEST_F(EncryptTest, FindsTheKeyByDestinationOrByTrying) {
  const auto file = pcap_of(
      {ethernet(ip_packet(4, 17, octets_of(30), 1)), ethernet(ip_packet(4, 17, octets_of(30), 7))});
  ASSERT_EQ(encrypt(file, {}).status, 0);
  const std::string other(32, '7');
  const auto with = [&](const std::string& log) {
    return run(
        {"decrypt", "-r", path("psp"), "-w", path("again"), "--key-log", write_text("log", log)});
  };
  const std::string line = "PSP_SA 0 1a345678 ";
  EXPECT_EQ(with(line + other + "\n" + line + kSaKey + "\n").status, 0);
  EXPECT_EQ(with(line + kSaKey + " 0.0.0.2\n" + line + kSaKey + " 0.0.0.8\n").status, 0);
  const auto half = with(line + kSaKey + " 0.0.0.2\n");
  EXPECT_EQ(half.status, 1);
  EXPECT_THAT(half.err, HasSubstr("packet 2: UNKNOWN_KEY: no key for this SPI"));
  EXPECT_THAT(with(line + other + "\n").err, HasSubstr("packets 1 to 2: AUTH_FAIL"));
}

class CheckTest : public EncryptTest {
 protected:
  nlohmann::json check(const std::vector<Octets>& packets, int status, bool keys = true) {
    write("psp", pcap_of(packets));
    std::vector<std::string> arguments{"check", "--json", "-r", path("psp")};
    if (keys) {
      arguments.push_back("--key-log");
      arguments.push_back(write_text("log", "PSP_SA 0 1a345678 " + kSaKey + "\n"));
    }
    const auto result = run(arguments);
    EXPECT_EQ(result.status, status) << result.err;
    err_ = result.err;
    return nlohmann::json::parse(result.out);
  }
  // Three packets of one flow with IVs 1, 2, 3.
  std::vector<Octets> good() {
    EXPECT_EQ(encrypt(pcap_of({ethernet(tcp_packet(4, 0x10, 10)), ethernet(tcp_packet(4, 0x10, 20)),
                               ethernet(tcp_packet(4, 0x10, 30))}),
                      {})
                  .status,
              0);
    return sealed();
  }
  std::string err_;
};

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

class ExplainTest : public CheckTest {
 protected:
  std::vector<nlohmann::json> explain(const std::vector<Octets>& packets,
                                      std::vector<std::string> more = {}) {
    std::vector<std::string> arguments{
        "explain",   "--json",
        "-r",        write("in", pcap_of(packets)),
        "--key-log", write_text("log", "PSP_SA 0 1a345678 " + kSaKey + "\n")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const auto result = run(arguments);
    EXPECT_EQ(result.status, 0) << result.err;
    std::vector<nlohmann::json> lines;
    std::istringstream stream(result.out);
    for (std::string line; std::getline(stream, line);)
      lines.push_back(nlohmann::json::parse(line));
    EXPECT_EQ(lines.size(), packets.size());
    return lines;
  }
};

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

// joined is what a capture on a host with offloads has of these frames: one header, all datagrams.
Octets joined(const std::vector<Octets>& frames) {
  constexpr std::size_t kUdp = 14 + 20, kPsp = kUdp + 8;
  Octets all(frames[0].begin(), frames[0].begin() + kPsp);
  for (const Octets& frame : frames) all.insert(all.end(), frame.begin() + kPsp, frame.end());
  wire::store_be(all.data() + 14 + 2, static_cast<std::uint16_t>(all.size() - 14));
  wire::store_be(all.data() + kUdp + 4, static_cast<std::uint16_t>(all.size() - kUdp));
  Octets packet(all.begin() + 14, all.end());
  put_ip_checksum(packet);
  // The checksum as it is before the card completes it: of the pseudo header.
  const auto pseudo =
      wire::pseudo_header_sum(packet, 4, 17, static_cast<std::uint32_t>(all.size() - kUdp));
  wire::store_be(packet.data() + 20 + 6, wire::checksum_fold(pseudo));
  return ethernet(packet);
}

class JoinedTest : public ExplainTest {
 protected:
  // Two of a length and a shorter one, as segmentation leaves them.
  std::vector<Octets> train() {
    EXPECT_EQ(encrypt(pcap_of(clear_), {}).status, 0);
    return sealed();
  }
  const std::vector<Octets> clear_ = {ethernet(tcp_packet(4, 0x10, 90)),
                                      ethernet(tcp_packet(4, 0x10, 90)),
                                      ethernet(tcp_packet(4, 0x10, 30))};
};

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
  EXPECT_THAT(run({"check", "-r", path("psp")}).out, HasSubstr("1 packets held several datagrams"));
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
      HasSubstr("1 packets not understood: an EtherType not known here (the first is packet 1)"));
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

// OutputTest: standard output that ends early or is full.
class OutputTest : public JoinedTest {
 protected:
  int shell(const std::string& command) const {
    const int status = std::system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  // many is a file whose explanation is more than a pipe holds.
  std::string many() {
    return write("many", pcap_of(std::vector<Octets>(2000, ethernet(tcp_packet(4, 0x10, 5)))));
  }
};

TEST_F(OutputTest, EndsQuietlyWhenNobodyReadsOn) {
  for (const std::string command : {"explain", "explain --json"}) {
    EXPECT_EQ(
        shell(fmt::format("bash -c 'trap - PIPE; ({} {} -r {}; echo $? >{}) 2>{} | head -n 1 >{}'",
                          PSP_PCAP, command, many(), path("status"), path("log"), path("head"))),
        0);
    const auto status = read_file(path("status")), said = read_file(path("log"));
    EXPECT_EQ(std::string(status.begin(), status.end()), "141\n") << "128 + SIGPIPE";
    EXPECT_EQ(std::string(said.begin(), said.end()), "");
    EXPECT_FALSE(read_file(path("head")).empty());
  }
}

TEST_F(OutputTest, SaysWhenItCouldNotWrite) {
  for (const std::string command : {"explain", "check", "check --json", "--help", "-V"}) {
    EXPECT_EQ(shell(fmt::format("{} {} -r {} >/dev/full 2>{}", PSP_PCAP, command,
                                write("in", pcap_of(train())), path("log"))),
              3)
        << command;
    const auto said = read_file(path("log"));
    EXPECT_THAT(std::string(said.begin(), said.end()), HasSubstr("standard output: cannot write"));
  }
}

class BadInputTest : public EncryptTest {};

TEST_F(BadInputTest, CountsNamesAndPassesOverBrokenPackets) {
  FileMaker maker;
  maker.section().interface();
  auto cut = ethernet(tcp_packet(4, 0x10, 50));
  cut.resize(40);
  maker.enhanced(ethernet(tcp_packet(4, 0x10, 1))).enhanced(cut).enhanced(cut);
  maker.block(6, FileMaker().u32(0)).enhanced(ethernet(tcp_packet(4, 0x10, 2)));
  const auto result = encrypt(maker.made, {});
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.err, HasSubstr("packets 2 to 3: BAD_LENGTH"));
  EXPECT_THAT(result.err, HasSubstr("packet 4: its block is too short"));
  EXPECT_EQ(sealed().size(), 2u);
}

TEST_F(BadInputTest, SurvivesEveryTruncation) {
  FileMaker maker;
  maker.section().interface().enhanced(ethernet(tcp_packet(4, 0x10, 1)));
  const auto next_generation = maker.made;
  const auto classic = pcap_of({ethernet(tcp_packet(4, 0x10, 1))});
  for (const auto& file : {classic, next_generation}) {
    for (std::size_t size = 0; size <= file.size(); size += 7) {
      const auto result =
          encrypt({file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size)}, {});
      EXPECT_THAT(result.status, testing::AnyOf(0, 1, 3)) << size;
      if (size < 20) {
        EXPECT_EQ(result.status, 3) << size;
      }
    }
  }
}

TEST_F(BadInputTest, HasAnExitCodeForEachKind) {
  const auto file = pcap_of({ethernet(tcp_packet(4, 0x10, 1))});
  EXPECT_EQ(run({}).status, 2);
  EXPECT_EQ(run({"encrypt"}).status, 2);
  EXPECT_EQ(run({"--help"}).status, 0);
  EXPECT_THAT(run({"--version"}).out, HasSubstr("psp-pcap of softpsp "));
  EXPECT_EQ(encrypt(file, {"--crypt-offset", "64"}).status, 2);
  EXPECT_EQ(encrypt(file, {"--dscp", "3"}).status, 2);  // there is no tunnel
  EXPECT_EQ(encrypt(file, {"--backend", "none"}).status, 2);
  // What would go unused.
  const std::string in = write("in", file);
  for (const char* command : {"check", "explain"})
    EXPECT_EQ(run({command, "-r", in, "--spi", "1a", "--psp-version", "1"}).status, 2);
  EXPECT_EQ(run({"explain", "-r", in, "--progress"}).status, 2);
  EXPECT_EQ(run({"encrypt", "-r", in, "-w", path("out"), "--cfg", in, "--dscp", "3"}).status, 2);
  EXPECT_EQ(encrypt(octets_of(100), {}).status, 3);
  EXPECT_EQ(encrypt({}, {}).status, 3);
  EXPECT_EQ(run({"check", "-r", path("missing")}).status, 3);
  EXPECT_EQ(run({"check", "-r", directory_}).status, 3);
  EXPECT_EQ(run({"decrypt", "-r", write("in", file), "-w", path("out")}).status, 4);
  EXPECT_EQ(run({"decrypt", "-r", write("in", file), "-w", path("out"), "--key-log",
                 write_text("log", "nothing\n")})
                .status,
            4);
  EXPECT_EQ(encrypt_cfg(file, "1 transport aes-gcm-128 64 0 0 vc").status, 4);
  auto damaged = file;
  damaged[24 + 11] = 0x7f;
  const auto result = encrypt(damaged, {});
  EXPECT_EQ(result.status, 3);
  EXPECT_THAT(result.err, HasSubstr("packet 1: its record claims"));
}

TEST_F(BadInputTest, DoesNotDestroyWhatItReads) {
  const auto file = pcap_of({ethernet(tcp_packet(4, 0x10, 1))});
  const auto in = write("same", file);
  const auto result = run({"encrypt", "-r", in, "-w", in, "--spi", "1", "--psp-version", "0",
                           "--sa-key", write_text("key", kSaKey)});
  EXPECT_EQ(result.status, 3);
  EXPECT_EQ(read_file(in), file);
  EXPECT_EQ(run({"encrypt", "-r", in, "-w", "/dev/full", "--spi", "1", "--psp-version", "0",
                 "--sa-key", path("key")})
                .status,
            3);
}

TEST_F(BadInputTest, NeverShowsAKey) {
  const auto file = pcap_of({ethernet(tcp_packet(4, 0x10, 1))});
  const auto result = run({"check", "-r", write("in", file), "--key-log",
                           write_text("log", "PSP_SA 0 1 " + kSaKey + "ff\n")});
  EXPECT_EQ(result.status, 4);
  EXPECT_THAT(result.err, HasSubstr("line 1"));
  EXPECT_THAT(result.err + result.out, Not(HasSubstr("0a0b0c")));
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // need memory of their own
TEST_F(BadInputTest, NeedsNoMoreMemoryForALargeFile) {
  const auto one = ethernet(tcp_packet(4, 0x10, 1400));
  FileMaker maker;
  maker.pcap_header();
  std::ofstream stream(path("large"), std::ios::binary);
  stream.write(reinterpret_cast<const char*>(maker.made.data()), 24);
  FileMaker record;
  record.pcap_packet(one);
  constexpr std::size_t kPackets = 100'000;  // 147 MB
  for (std::size_t i = 0; i < kPackets; ++i)
    stream.write(reinterpret_cast<const char*>(record.made.data()),
                 static_cast<std::streamsize>(record.made.size()));
  stream.close();
  const auto encrypted =
      run({"encrypt", "-r", path("large"), "-w", path("psp"), "--spi", "1a345678", "--psp-version",
           "0", "--sa-key", write_text("key", kSaKey)});
  EXPECT_EQ(encrypted.status, 0) << encrypted.err;
  EXPECT_LT(encrypted.peak_kib, 64 * 1024);
  const auto checked = run({"check", "-r", path("psp"), "--spi", "1a345678", "--psp-version", "0",
                            "--sa-key", path("key")});
  EXPECT_EQ(checked.status, 0) << checked.err;
  EXPECT_LT(checked.peak_kib, 64 * 1024);
}
#endif

}  // namespace
}  // namespace psp::pcap_tool
