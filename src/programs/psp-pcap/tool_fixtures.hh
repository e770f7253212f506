// SPDX-License-Identifier: Apache-2.0
//
// What the tests of psp-pcap have ready: each fixture can do one command more than the one before,
// with one key and one SPI for all; and packets as offloads join them.
//
// A fixture runs a command in the test's own directory and gives what it wrote, as packets or as
// JSON. joined() writes what a capture on a sending host has: one header, datagrams of equal length
// behind each other, a UDP checksum that the card would have completed.
#pragma once

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sstream>

#include "test_support.hh"

namespace psp::pcap_tool::test {

inline const std::string kDeviceKeys =
    "34448a064292601b11a0978f56a2d34cf3fc35ede1a6bc04f8db3e5243a2b0ca\n"
    "563952565d3a78ae773ec1b779f2f2d99f4a7f53a6fbb9b07d5b71f39364d739\n";
inline const std::string kSaKey = "000102030405060708090a0b0c0d0e0f";

// EncryptTest seals a file and opens it again.
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

// CheckTest has packets looked at.
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

// ExplainTest has them explained, a line each.
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

// joined is what a capture on a host with offloads has of these frames: one header, all datagrams.
inline Octets joined(const std::vector<Octets>& frames) {
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

// JoinedTest has several packets of a connection, which can be joined.
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

}  // namespace psp::pcap_tool::test
