// SPDX-License-Identifier: Apache-2.0
//
// Capture files from anybody, pcap and pcapng. Cut into two pieces anywhere a file gives the same
// records; records lie in the file and behind each other; written again it reads as before; what
// is around a packet lies in the frame; and every packet can be sealed, opened, taken apart,
// explained without harm, where what was sealed has to come back, also several joined. A file that
// gzip made goes through the Reader.
//
// Input: 2 octets where to cut the file, then the file.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#include "../src/programs/psp-pcap/explain.hh"
#include "../src/programs/psp-pcap/frames.hh"
#include "pcap/file.hh"
#include "pcap/joined.hh"

namespace psp::pcap_tool {
namespace {

using Octets = std::vector<std::uint8_t>;
using pcap::Record;

// check ends the run where an invariant does not hold; the fuzzer then keeps the input.
void check(bool held) {
  if (!held) std::abort();
}

struct Found {
  std::vector<Record> records;
  std::string damaged;
};

Found split(std::span<const std::uint8_t> file) {
  pcap::Splitter splitter;
  Found found;
  check(splitter.split(file, true, found.records) == file.size());
  found.damaged = splitter.damaged();
  return found;
}

// check_cut: in two pieces the file is the same.
void check_cut(std::span<const std::uint8_t> file, std::size_t cut, const Found& whole) {
  pcap::Splitter splitter;
  std::vector<Record> first, second;
  const std::size_t used = splitter.split(file.first(cut), false, first);
  check(used <= cut);
  if (splitter.damaged().empty()) splitter.split(file.subspan(used), true, second);
  check(splitter.damaged() == whole.damaged);
  check(first.size() + second.size() == whole.records.size());
  for (std::size_t i = 0; i < whole.records.size(); ++i) {
    const bool early = i < first.size();
    const Record& one = early ? first[i] : second[i - first.size()];
    check(one.at + (early ? 0 : used) == whole.records[i].at && one.size == whole.records[i].size);
    check(one.kind == whole.records[i].kind && one.captured == whole.records[i].captured);
  }
}

void check_records(std::span<const std::uint8_t> file, const Found& found) {
  std::size_t end = 0;
  std::uint64_t number = 0;
  for (const Record& record : found.records) {
    check(record.at == end && record.size != 0);
    end += record.size;
    check(end <= file.size());
    if (record.kind == Record::Kind::kPacket)
      check(record.data_at >= record.at && record.data_at + record.captured <= end);
    if (record.kind == Record::Kind::kPacket || record.kind == Record::Kind::kBroken)
      check(record.number == ++number);
  }
}

// check_rewritten: what is written has the same packets, without the broken ones.
void check_rewritten(std::span<const std::uint8_t> file, const Found& found, bool reference) {
  pcap::Rewriter rewriter({.growth = 100, .reference = reference});
  pcap::Buffer out;
  std::vector<Octets> packets;
  for (const Record& record : found.records) {
    if (record.kind == Record::Kind::kBroken) continue;
    if (record.kind != Record::Kind::kPacket || record.layout == Record::Layout::kObsolete) {
      rewriter.copy(file, record, out);
      if (record.kind != Record::Kind::kPacket) continue;
    }
    const auto packet = record.packet(file);
    packets.emplace_back(packet.begin(), packet.end());
    if (record.layout == Record::Layout::kObsolete) continue;
    std::uint8_t* to = rewriter.begin(record, packet.size(), out);
    if (!packet.empty()) std::memcpy(to, packet.data(), packet.size());
    rewriter.end(file, record, packet.size(), out);
  }
  const Found again = split(out.span());
  check(found.records.empty() || again.damaged.empty());
  std::size_t i = 0;
  for (const Record& record : again.records) {
    // A simple packet block has no length of its own: a snap length may cut it.
    if (record.kind != Record::Kind::kPacket) continue;
    check(i < packets.size());
    check(std::ranges::equal(record.packet(out.span()), packets[i++]));
  }
}

// Bench is keys and everything that works with them.
struct Bench {
  CaptureKeys keys{crypto::openssl_backend()};
  std::vector<Sealer> sealers;
  Opener opener{keys, crypto::EcnAtExit::kIgnore};
  Explainer explainer{opener, VersionSet::all()};

  Bench() {
    for (std::uint8_t index = 0; index < 2; ++index) {
      pcap::KeyEntry entry{.kind = pcap::KeyEntry::Kind::kDevice, .index = index};
      entry.key.resize(32);
      keys.add(std::move(entry));
    }
    for (const bool reference : {false, true})
      for (const bool tunnel : {false, true}) {
        Options options;
        options.spi = 1;
        options.version = Version::kAesGcm128;
        options.tunnel = tunnel;
        pcap::Configuration::Sealing sealing{.spi = {1}, .tunnel = tunnel, .ipv4_offset = {6}};
        sealers.push_back(
            *Sealer::make(options, reference ? std::optional(sealing) : std::nullopt, keys));
      }
  }
};

// check_frame: what was found of the link layer lies in the frame.
void check_frame(const Record& record, const Frame& frame) {
  if (frame.packet.empty()) return;
  const auto& link = frame.link;
  check(link.ip_at <= frame.octets.size());
  check(link.head_at + link.head_size <= link.ip_at);
  check(link.type_at == pcap::LinkHeader::kNoType ||
        (link.type_at >= link.head_at && link.type_at + 2 <= link.head_at + link.head_size));
  Octets head(link.head_size + 2);
  for (const std::uint8_t family : {4, 6})
    pcap::write_head(head.data(), record.link_type, frame.octets, link, family);
}

// check_joined: datagrams behind one another are told apart, and the pieces of anything are whole.
void check_joined(Bench& bench, std::span<const std::uint8_t> sealed, const Frame& frame) {
  const auto packet = wire::parse_packet(sealed);
  const auto datagram = sealed.subspan(packet->psp_offset);
  Octets three;
  for (int i = 0; i < 3; ++i) three.insert(three.end(), datagram.begin(), datagram.end());
  const std::size_t stride = pcap::joined_stride(three);
  check(stride != 0 && stride <= datagram.size());  // less: joined before it was sealed
  std::size_t parts = 0;
  bench.explainer.explain(frame, [&](const Frame& one, const Explanation&) {
    check(one.part == parts && parts < one.parts && one.packet.size() <= frame.octets.size());
    ++parts;
  });
}

void check_packet(Bench& bench, const Frame& frame) {
  bench.explainer.explain(frame, [](const Frame&, const Explanation&) {});
  for (Sealer& sealer : bench.sealers) {
    Octets out(frame.octets.size() + Sealer::kMost);
    const auto sealed = sealer.seal(frame, out);
    if (sealed.skipped || sealed.drop) continue;
    out.resize(sealed.size);
    const auto packet = wire::parse_packet(out);
    check(packet.has_value());
    Frame again;
    again.what = Frame::What::kPsp;
    again.packet = out;
    again.ip = packet->ip;
    again.psp = *packet;
    check_joined(bench, out, frame);
    Octets clear(out.size());
    const auto opened = bench.opener.open(again, clear);
    check(opened.authentic);
    check(!opened.drop || opened.drop == Drop::BAD_INNER);  // protocol 4 and 41 mean a tunnel
    if (!opened.drop && !wire::is_tunnel(frame.ip.protocol))
      check(opened.size == frame.ip.total_length);
  }
}

// check_compressed reads a file that gzip made, or that says so.
void check_compressed(std::span<const std::uint8_t> file) {
  const UniqueFd fd(::memfd_create("pcap_fuzz", MFD_CLOEXEC));
  if (!fd || ::write(fd.get(), file.data(), file.size()) < 0) return;
  auto reader = pcap::Reader::open("/proc/self/fd/" + std::to_string(fd.get()));
  if (!reader) return;
  pcap::Batch batch;
  std::uint64_t number = 0;
  while (reader->next(batch).value_or(false))
    for (const Record& record : batch.records)
      if (record.kind == Record::Kind::kPacket || record.kind == Record::Kind::kBroken)
        check(record.number == ++number);
}

}  // namespace
}  // namespace psp::pcap_tool

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace psp::pcap_tool;
  static Bench bench;
  if (size < 2) return 0;
  const std::span<const std::uint8_t> file(data + 2, size - 2);
  if (file.size() > 2 && file[0] == 0x1f && file[1] == 0x8b) return check_compressed(file), 0;
  const Found found = split(file);
  check_records(file, found);
  check_cut(file, std::min<std::size_t>(data[0] | data[1] << 8, file.size()), found);
  check_rewritten(file, found, false);
  check_rewritten(file, found, true);
  for (const auto& record : found.records)
    if (record.kind == psp::pcap::Record::Kind::kPacket)
      for (const auto reach : {psp::pcap::Reach::kLink, psp::pcap::Reach::kTunnels}) {
        const Frame frame = look(record, file, reach);
        check_frame(record, frame);
        check_packet(bench, frame);
      }
  return 0;
}
