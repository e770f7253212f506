// SPDX-License-Identifier: Apache-2.0
//
// For tests of the tc programs: packets in and out as capture files, to be looked at in Wireshark
// and to begin a test from. With PSP_FIXTURE_PCAP=DIR each test that runs a program writes
// DIR/SUITE.TEST.pcapng: of each run the packet in and, if it was not dropped, the packet out, with
// what the run is about as its comment. read_packets makes packets of a file, that one or another.
//
// The layer `kernel` does not know captures, and its tests need not: what is over psp_pcap stands
// in tests/kernel/packet_capture_fixture.cc.
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <utility>
#include <vector>

namespace psp::kernel {

using Octets = std::vector<std::uint8_t>;

// PacketCapture is the packets of one test. Thread: one.
class PacketCapture {
 public:
  void add_in(const Octets& packet, const std::string& comment) { add(true, packet, comment); }
  void add_out(const Octets& packet, const std::string& comment) { add(false, packet, comment); }
  bool empty() const { return packets_.empty(); }

  // write makes the file. `name` is that of the test. Errors: a sentence.
  std::expected<void, std::string> write(const std::string& path, const std::string& name) const;

 private:
  struct Packet {
    bool in;
    Octets octets;
    std::string comment;
  };
  void add(bool in, const Octets& packet, const std::string& comment) {
    packets_.push_back({in, packet, comment});
  }
  std::vector<Packet> packets_;
};

// read_packets is all packets of a capture, pcap or pcapng, of Ethernet. Errors: a sentence.
std::expected<std::vector<Octets>, std::string> read_packets(const std::string& path);

}  // namespace psp::kernel
