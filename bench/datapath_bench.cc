// SPDX-License-Identifier: Apache-2.0
//
// The packet path alone, in memory: one TSO packet sealed into a superframe, one superframe opened
// and joined, and the parts they are made of (cipher, checksum), so that the share of each is seen.
// 44 segments of 1408 octets are what fits one superframe at MTU 1500; 45 are what TCP hands over.
//
// Counters: ns_per_segment; bytes_per_second counts TCP payload.
#include <array>
#include <benchmark/benchmark.h>
#include <memory>
#include <stdexcept>
#include <vector>

#include "crypto/seal.hh"
#include "datapath/rx_path.hh"
#include "datapath/tx_path.hh"
#include "device/software_driver.hh"
#include "wire/checksum.hh"

namespace {

using namespace psp;
using namespace psp::datapath;
using Octets = std::vector<std::uint8_t>;

constexpr std::size_t kMss = 1408;
constexpr std::size_t kTcpHeader = 32;

// LastFrame keeps the last frame of at least `minimum` octets, or only counts.
class LastFrame final : public Sink {
 public:
  bool write(std::span<const iovec> frame) override {
    if (keep) {
      const auto* p = static_cast<const std::uint8_t*>(frame[0].iov_base);
      last.assign(p, p + frame[0].iov_len);
    }
    octets += frame[0].iov_len;
    ++frames;
    return true;
  }
  bool keep = false;
  Octets last;
  std::size_t frames = 0;
  std::size_t octets = 0;
};

Octets tso_frame(unsigned family, std::size_t segments, std::uint32_t handle) {
  const std::size_t ip_length = family == 4 ? kIpv4Header + kMssReservation : kIpv6Header;
  const std::size_t tcp_at = kIpAt + ip_length;
  Octets frame(tcp_at + kTcpHeader + segments * kMss, 0x5a);
  VnetHeader vnet{.flags = kVnetNeedsCsum,
                  .gso_type = family == 4 ? kGsoTcp4 : kGsoTcp6,
                  .hdr_len = static_cast<std::uint16_t>(tcp_at + kTcpHeader - kEthAt),
                  .gso_size = kMss,
                  .csum_start = static_cast<std::uint16_t>(tcp_at - kEthAt),
                  .csum_offset = kTcpChecksumAt};
  store_vnet(frame.data(), vnet);
  store_tag(frame.data(), {PSP_FRAME_SEAL, PSP_FRAME_F_MSS_RESERVED, handle});
  wire::store_be(frame.data() + kEthertypeAt, family == 4 ? kEthertypeIpv4 : kEthertypeIpv6);
  std::uint8_t* ip = frame.data() + kIpAt;
  std::memset(ip, 1, ip_length);
  if (family == 4) {
    ip[0] = 0x4f;
    ip[6] = 0x40;
    ip[7] = 0;
    wire::set_ip_payload({ip, ip_length},
                         {.family = 4, .header_length = static_cast<std::uint16_t>(ip_length)},
                         frame.size() - tcp_at, wire::kProtocolTcp);
  } else {
    ip[0] = 0x60;
    wire::store_be(ip + 4, static_cast<std::uint16_t>(frame.size() - kIpAt - kIpv6Header));
    ip[6] = wire::kProtocolTcp;
  }
  frame[tcp_at + kTcpOffsetAt] = kTcpHeader / 4 << 4;
  frame[tcp_at + kTcpFlagsAt] = kTcpAck;
  return frame;
}

// Bed is a sender and a receiver in one device.
struct Bed {
  Bed(Version version, std::string_view backend)
      : ivs([this] { return clock += 1000; }),
        driver({.backend = crypto::find_backend(backend), .ivs = &ivs}),
        engine(driver.make_engine()) {
    driver.enable(VersionSet::all());
    const auto key = driver.rx_spi_alloc(version).value();
    handle = driver.tx_key_add(version, key.spi, key.key.span()).value();
  }
  std::uint64_t clock = 1;
  device::IvAllocator ivs;
  device::SoftwareDriver driver;
  std::unique_ptr<device::Engine> engine;
  std::uint32_t handle = 0;
};

void count(benchmark::State& state, std::size_t segments) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * segments * kMss));
  state.counters["ns_per_segment"] =
      benchmark::Counter(static_cast<double>(state.iterations() * segments) * 1e-9,
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void tx(benchmark::State& state, unsigned family, std::string_view backend) {
  const auto segments = static_cast<std::size_t>(state.range(0));
  Bed bed(Version::kAesGcm128, backend);
  LastFrame sink;
  TxPath path(*bed.engine, sink, {});
  const Octets original = tso_frame(family, segments, bed.handle);
  // The header is all that the next round needs again.
  const std::size_t header = original.size() - segments * kMss;
  Octets frame = original;
  for (auto _ : state) {
    std::copy_n(original.begin(), header, frame.begin());
    path.process(frame);
  }
  path.flush();
  count(state, segments);
  state.counters["writes"] =
      static_cast<double>(sink.frames) / static_cast<double>(state.iterations());
}

void rx(benchmark::State& state, unsigned family, std::string_view backend) {
  const auto segments = static_cast<std::size_t>(state.range(0));
  Bed bed(Version::kAesGcm128, backend);
  LastFrame wire_sink, stack_sink;
  wire_sink.keep = true;
  TxPath sealer(*bed.engine, wire_sink, {});
  Octets clear = tso_frame(family, segments, bed.handle);
  sealer.process(clear);
  sealer.flush();
  RxPath path(*bed.engine, stack_sink);
  for (auto _ : state) {
    path.process(wire_sink.last);
    path.flush();
  }
  count(state, segments);
  if (stack_sink.frames != static_cast<std::size_t>(state.iterations()))
    state.SkipWithError("not joined");
}

// The parts, on memory laid out as in TxPath.
void part_seal(benchmark::State& state, std::string_view backend) {
  const auto segments = static_cast<std::size_t>(state.range(0));
  const auto aead = crypto::find_backend(backend)->make_aead();
  const Octets key(16, 1);
  aead->rekey(Version::kAesGcm128, key);
  const Octets in(segments * kMss + 200, 0x5a);
  Octets out(segments * (kMss + 64) + 200, 0);
  for (auto _ : state)
    for (std::size_t i = 0; i < segments; ++i) {
      std::uint8_t* datagram = out.data() + i * (kMss + 64);
      aead->seal(datagram + 4, {datagram, 16}, {in.data() + 12 + i * kMss, kMss + kTcpHeader},
                 datagram + 16, datagram + 16 + kMss + kTcpHeader);
    }
  count(state, segments);
}

void part_checksum(benchmark::State& state) {
  const auto segments = static_cast<std::size_t>(state.range(0));
  const Octets in(segments * kMss + 200, 0x5a);
  for (auto _ : state)
    for (std::size_t i = 0; i < segments; ++i)
      benchmark::DoNotOptimize(wire::checksum_add(0, {in.data() + 44 + i * kMss, kMss}));
  count(state, segments);
}

BENCHMARK_CAPTURE(tx, ipv4_ipsec_mb, 4u, "ipsec-mb")->Arg(1)->Arg(44)->Arg(45);
BENCHMARK_CAPTURE(tx, ipv6_ipsec_mb, 6u, "ipsec-mb")->Arg(44);
BENCHMARK_CAPTURE(tx, ipv4_openssl, 4u, "openssl")->Arg(44);
BENCHMARK_CAPTURE(rx, ipv4_ipsec_mb, 4u, "ipsec-mb")->Arg(1)->Arg(44);
BENCHMARK_CAPTURE(rx, ipv6_ipsec_mb, 6u, "ipsec-mb")->Arg(44);
BENCHMARK_CAPTURE(rx, ipv4_openssl, 4u, "openssl")->Arg(44);
BENCHMARK_CAPTURE(part_seal, ipsec_mb, "ipsec-mb")->Arg(44);
BENCHMARK_CAPTURE(part_seal, openssl, "openssl")->Arg(44);
BENCHMARK(part_checksum)->Arg(44);

}  // namespace

BENCHMARK_MAIN();
