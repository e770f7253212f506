// SPDX-License-Identifier: Apache-2.0
//
// psp-pcap as a child process, files to give it, and packets to put into them. As a child, since
// exit status, standard error and memory are what users and scripts go by.
//
// Packets are written octet by octet here and their checksums put right; captures are read back by
// the library's own Splitter, which has tests of its own in src/pcap.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <iterator>
#include <string>
#include <sys/resource.h>
#include <sys/wait.h>
#include <vector>

#include "../../pcap/test_support.hh"
#include "pcap/record.hh"
#include "wire/bytes.hh"
#include "wire/checksum.hh"
#include "wire/packet.hh"

namespace psp::pcap_tool::test {

using pcap::test::FileMaker;
using pcap::test::Octets;
using pcap::test::octets_of;

struct Result {
  int status = -1;
  std::string out, err;
  long peak_kib = 0;
};

inline Octets read_file(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

inline std::vector<Octets> packets_of(const Octets& file) {
  pcap::Splitter splitter;
  std::vector<pcap::Record> records;
  splitter.split(file, true, records);
  EXPECT_EQ(splitter.damaged(), "");
  std::vector<Octets> packets;
  for (const auto& record : records) {
    if (record.kind != pcap::Record::Kind::kPacket) continue;
    const auto packet = record.packet(file);
    packets.emplace_back(packet.begin(), packet.end());
  }
  return packets;
}

// ToolTest has a directory of its own.
class ToolTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "psp-pcap-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    directory_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string path(const std::string& name) const { return directory_ / name; }
  std::string write(const std::string& name, const Octets& octets) const {
    std::ofstream(path(name), std::ios::binary)
        .write(reinterpret_cast<const char*>(octets.data()),
               static_cast<std::streamsize>(octets.size()));
    return path(name);
  }
  std::string write_text(const std::string& name, const std::string& text) const {
    return write(name, {text.begin(), text.end()});
  }

  Result run(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), PSP_PCAP);
    const std::string out = path("stdout"), err = path("stderr");
    std::fflush(nullptr);  // else the child writes what is buffered once more
    const pid_t child = fork();
    if (child == 0) {
      std::vector<char*> argv;
      for (auto& argument : arguments) argv.push_back(argument.data());
      argv.push_back(nullptr);
      if (std::freopen(out.c_str(), "w", stdout) == nullptr ||
          std::freopen(err.c_str(), "w", stderr) == nullptr)
        _exit(126);
      execv(PSP_PCAP, argv.data());
      _exit(127);
    }
    int status = 0;
    rusage usage{};
    wait4(child, &status, 0, &usage);
    Result result;
    result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    const auto said = read_file(out), complained = read_file(err);
    result.out.assign(said.begin(), said.end());
    result.err.assign(complained.begin(), complained.end());
    result.peak_kib = usage.ru_maxrss;
    return result;
  }

  std::filesystem::path directory_;
};

inline void put_ip_checksum(Octets& packet) {
  if (packet[0] >> 4 != 4) return;
  wire::store_be(packet.data() + 10, std::uint16_t{0});
  const auto header = std::span(packet).first((packet[0] & 15u) * 4);
  wire::store_be(packet.data() + 10,
                 static_cast<std::uint16_t>(~wire::checksum_fold(wire::checksum_add(0, header))));
}

// ip_packet is an IP packet with `l4` behind the header, checksums of the header right.
inline Octets ip_packet(std::uint8_t family, std::uint8_t protocol, const Octets& l4,
                        std::uint8_t last = 1) {
  Octets packet(family == 4 ? 20 : 40);
  packet[0] = family == 4 ? 0x45 : 0x60;
  packet[family == 4 ? 8 : 7] = 64;
  packet[family == 4 ? 15 : 23] = last;
  packet[family == 4 ? 19 : 39] = static_cast<std::uint8_t>(last + 1);
  packet.insert(packet.end(), l4.begin(), l4.end());
  wire::set_ip_payload(
      packet,
      {.family = family, .header_length = static_cast<std::uint16_t>(family == 4 ? 20 : 40)},
      l4.size(), protocol);
  put_ip_checksum(packet);
  return packet;
}

// tcp is a TCP segment with those flags; its checksum is put right for `family`.
inline Octets tcp_packet(std::uint8_t family, std::uint8_t flags, std::size_t payload) {
  Octets l4(20);
  wire::store_be(l4.data(), std::uint16_t{1234});
  wire::store_be(l4.data() + 2, std::uint16_t{80});
  l4[12] = 0x50;
  l4[13] = flags;
  const auto more = octets_of(payload);
  l4.insert(l4.end(), more.begin(), more.end());
  auto packet = ip_packet(family, 6, l4);
  const std::size_t header = family == 4 ? 20 : 40;
  const auto sum = wire::checksum_add(
      wire::pseudo_header_sum(packet, family, 6, static_cast<std::uint32_t>(l4.size())),
      std::span(packet).subspan(header));
  wire::store_be(packet.data() + header + 16,
                 static_cast<std::uint16_t>(~wire::checksum_fold(sum)));
  return packet;
}

inline Octets ethernet(const Octets& packet, bool tagged = false) {
  Octets frame(12, 0xee);
  if (tagged) frame.insert(frame.end(), {0x81, 0x00, 0x00, 0x07});
  if (packet[0] >> 4 == 4)
    frame.insert(frame.end(), {0x08, 0x00});
  else
    frame.insert(frame.end(), {0x86, 0xdd});
  frame.insert(frame.end(), packet.begin(), packet.end());
  return frame;
}

inline Octets pcap_of(const std::vector<Octets>& packets, std::uint32_t link = pcap::kLinkEthernet,
                      bool swapped = false) {
  FileMaker maker(swapped);
  maker.pcap_header(link, 262144);
  for (const auto& packet : packets) maker.pcap_packet(packet);
  return maker.made;
}

}  // namespace psp::pcap_tool::test
