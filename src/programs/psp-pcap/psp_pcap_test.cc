// SPDX-License-Identifier: Apache-2.0
//
// psp-pcap from outside: round trips through both formats and all link types, and what it does with
// files that are no good and output that nobody takes.
//
// The tool runs as a child process; the oracle of a round trip is the capture that went in, octet
// for octet. Broken files are cut at every seventh octet, damaged, or empty. Whether the packets
// are right is not shown here, since one mistake in both directions would go unnoticed: for that
// there are reference_test.cc and the corpus (conformance).
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "wire/tunnel.hh"

#include "tool_fixtures.hh"

namespace psp::pcap_tool {
namespace {

using namespace test;
using testing::HasSubstr;
using testing::Not;

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
  EXPECT_THAT(result.err, HasSubstr("encrypted 1 packet, passed over 2, broken 1"));
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

#ifndef PSP_SANITIZED  // sanitizers need memory of their own
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
