// SPDX-License-Identifier: Apache-2.0
//
// psp_pcap_bench CAPTURE [OUTPUT]: how fast psp-pcap encrypts a large capture, beside the bare
// engine (seal_packet over the same packets, one thread, everything in memory already), and beside
// the bare system: write() of as many octets to the same output, from memory. They take turns, so
// that a machine with other work treats all alike; the medians are printed.
#include <algorithm>
#include <ctime>
#include <fmt/format.h>

#include "commands.hh"

namespace psp::pcap_tool {
namespace {

constexpr int kRounds = 7;

struct Seconds {
  double wall = 0, cpu = 0;
};

double now(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

template <typename Work>
Seconds timed(Work work) {
  const Seconds start{now(CLOCK_MONOTONIC), now(CLOCK_PROCESS_CPUTIME_ID)};
  work();
  return {now(CLOCK_MONOTONIC) - start.wall, now(CLOCK_PROCESS_CPUTIME_ID) - start.cpu};
}

Seconds median(std::vector<Seconds> all) {
  std::ranges::sort(all, {}, &Seconds::wall);
  Seconds middle = all[all.size() / 2];
  std::ranges::sort(all, {}, &Seconds::cpu);
  middle.cpu = all[all.size() / 2].cpu;
  return middle;
}

void add_keys(CaptureKeys& ring) {
  for (std::uint8_t index = 0; index < 2; ++index) {
    pcap::KeyEntry entry{.kind = pcap::KeyEntry::Kind::kDevice, .index = index};
    entry.key.resize(32);
    ring.add(std::move(entry));
  }
}

Options options_for(const char* in, const char* out) {
  Options options;
  options.command = Command::kEncrypt;
  options.in = in;
  options.out = out;
  options.spi = 1;
  options.version = Version::kAesGcm128;
  options.quiet = true;
  return options;
}

// The packets of a capture, one behind the other.
struct Packets {
  std::vector<pcap::Batch> batches;
  std::uint64_t count = 0, octets = 0;
};

Packets load(const char* path) {
  Packets packets;
  auto reader = pcap::Reader::open(path);
  while (reader) {
    pcap::Batch batch;
    if (!reader->next(batch).value_or(false)) break;
    for (const auto& record : batch.records) packets.octets += record.captured;
    packets.count += batch.records.size();
    packets.batches.push_back(std::move(batch));
  }
  return packets;
}

void seal_all(const Packets& packets, crypto::Aead& aead) {
  std::vector<std::uint8_t> out(70000);
  wire::EncapOptions options{.spi = {1}};
  for (const auto& batch : packets.batches)
    for (const auto& record : batch.records) {
      if (record.kind != pcap::Record::Kind::kPacket) continue;
      const auto frame = record.packet(batch.octets.span());
      ++options.iv;
      static_cast<void>(crypto::seal_packet(aead, options, frame.subspan(14), out));
    }
}

void write_all(const Packets& packets, const char* out) {
  auto writer = pcap::Writer::open(out, -1);
  for (const auto& batch : packets.batches)
    if (!writer->write(batch.octets.span())) return;
}

void compare(const crypto::Backend& backend, const Packets& packets, const char* in,
             const char* out) {
  CaptureKeys ring(backend);
  add_keys(ring);
  const auto engine = ring.make(Version::kAesGcm128, {1});
  std::vector<Seconds> bare, system, tool;
  for (int round = 0; round < kRounds; ++round) {
    bare.push_back(timed([&] { seal_all(packets, *engine.front().aead); }));
    system.push_back(timed([&] { write_all(packets, out); }));
    tool.push_back(timed([&] {
      const Options options = options_for(in, out);
      auto reader = pcap::Reader::open(in);
      Job job{options, *reader, ring, {}};
      run_transcode(job);
    }));
  }
  const Seconds engine_time = median(bare), system_time = median(system), tool_time = median(tool);
  const double gib = static_cast<double>(packets.octets) / (1u << 30);
  fmt::print(
      "{:<9} to {:<16} psp-pcap {:.2f} GiB/s; engine {:.2f}: {:.2f} of it; system {:.2f}: {:.2f} "
      "of "
      "it; CPU of psp-pcap {:.2f} s, engine {:.2f} s, system {:.2f} s\n",
      backend.name(), out, gib / tool_time.wall, gib / engine_time.wall,
      engine_time.wall / tool_time.wall, gib / system_time.wall, system_time.wall / tool_time.wall,
      tool_time.cpu, engine_time.cpu, system_time.cpu);
}

}  // namespace
}  // namespace psp::pcap_tool

int main(int argc, char** argv) {
  using namespace psp;
  if (argc < 2 || argc > 3) {
    std::fprintf(stderr, "usage: psp_pcap_bench CAPTURE [OUTPUT]\n");
    return 2;
  }
  const auto packets = pcap_tool::load(argv[1]);
  fmt::print("{} packets, {} octets\n", packets.count, packets.octets);
  for (const crypto::Backend* backend : {crypto::ipsec_mb_backend(), &crypto::openssl_backend()})
    if (backend != nullptr)
      pcap_tool::compare(*backend, packets, argv[1], argc == 3 ? argv[2] : "/dev/null");
  return 0;
}
