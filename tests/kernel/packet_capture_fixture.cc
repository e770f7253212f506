// SPDX-License-Identifier: Apache-2.0
//
// Captures of what the tc programs got and gave, as pcapng by psp_pcap. It is here and not beside
// the tests that use it since it knows two layers of which neither knows the other.
//
// There is no clock: packets have their number as time, in milliseconds, so that the same run makes
// the same file.
#include "kernel/packet_capture_fixture.hh"

#include "pcap/capture_writer.hh"
#include "pcap/file.hh"

namespace psp::kernel {

std::expected<void, std::string> PacketCapture::write(const std::string& path,
                                                      const std::string& name) const {
  constexpr std::uint64_t kMillisecond = 1'000'000;
  pcap::Buffer buffer;
  pcap::begin_capture({.name = name, .filter = "", .program = "kernel_bpf_test"}, buffer);
  std::uint64_t now = 0;
  for (const Packet& packet : packets_)
    pcap::add_packet({.nanoseconds = now += kMillisecond,
                      .direction = packet.in ? pcap::Direction::kIn : pcap::Direction::kOut,
                      .octets = packet.octets,
                      .original = static_cast<std::uint32_t>(packet.octets.size()),
                      .comment = packet.comment},
                     buffer);
  pcap::end_capture(now, {.received = packets_.size(), .dropped = 0}, buffer);
  auto file = pcap::Writer::open(path, -1);
  if (!file) return std::unexpected(file.error());
  if (auto done = file->write(buffer.span()); !done) return done;
  return file->close();
}

std::expected<std::vector<Octets>, std::string> read_packets(const std::string& path) {
  auto file = pcap::Reader::open(path);
  if (!file) return std::unexpected(file.error());
  std::vector<Octets> packets;
  pcap::Batch batch;
  for (;;) {
    const auto more = file->next(batch);
    if (!more) return std::unexpected(more.error());
    if (!*more) break;
    for (const pcap::Record& record : batch.records) {
      if (record.kind != pcap::Record::Kind::kPacket) continue;
      if (record.link_type != pcap::kLinkEthernet)
        return std::unexpected(path + ": not of Ethernet");
      const auto octets = record.packet(batch.octets.span());
      packets.emplace_back(octets.begin(), octets.end());
    }
  }
  if (!file->damaged().empty()) return std::unexpected(path + ": " + file->damaged());
  return packets;
}

}  // namespace psp::kernel
