// SPDX-License-Identifier: Apache-2.0
//
// What a device costs: receive memory against the number of SPIs handed out, opening with derived
// keys remembered and not, picking up a Tx key, rotating with many associations.
//
// Counters: rx_state_octets is what the device says of itself, rss_growth_octets what the kernel
// says of the process between the first and the last SPI. Both must not depend on the argument.
#include <array>
#include <benchmark/benchmark.h>
#include <fstream>
#include <memory>
#include <unistd.h>
#include <unordered_map>
#include <vector>

#include "crypto/seal.hh"
#include "device/core.hh"
#include "device/software_device.hh"

namespace {

using namespace psp;
using namespace psp::device;

std::int64_t rss_octets() {
  std::int64_t total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

std::uint64_t standing_clock() { return 1; }

// Bed is a device that receives all versions.
struct Bed {
  explicit Bed(const crypto::Backend& crypto_backend, std::size_t rx_cache_entries = 256)
      : backend(crypto_backend), driver(options(rx_cache_entries)) {
    driver.enable(VersionSet::all());
    engine = driver.make_engine();
  }
  SoftwareDriverOptions options(std::size_t rx_cache_entries) {
    SoftwareDriverOptions o;
    o.backend = &backend;
    o.ivs = &ivs;
    o.rx_cache_entries = rx_cache_entries;
    return o;
  }
  std::vector<std::uint8_t> seal(const RxKey& rx, std::size_t inner_size) const {
    std::vector<std::uint8_t> datagram(kPspBaseHeader + inner_size + kIcv);
    const std::vector<std::uint8_t> inner(inner_size, 0x5a);
    wire::write_header(datagram, {.spi = rx.spi, .iv = 1});
    const auto aead = backend.make_aead();
    aead->rekey(Version::kAesGcm128, rx.key.span());
    crypto::seal_datagram(*aead, Version::kAesGcm128, datagram, kPspBaseHeader, inner);
    return datagram;
  }

  const crypto::Backend& backend;
  IvAllocator ivs{standing_clock};
  SoftwareDriver driver;
  std::unique_ptr<Engine> engine;
};

// Hands out that many SPIs and opens a packet of the first and of the last.
void rx_memory(benchmark::State& state, const crypto::Backend* backend) {
  Bed bed(*backend);
  const auto open_one = [&] {
    const auto datagram = bed.seal(bed.driver.rx_spi_alloc(Version::kAesGcm128).value(), 100);
    std::vector<std::uint8_t> out(datagram.size());
    if (!bed.engine->open(datagram, out.data())) state.SkipWithError("does not open");
  };
  open_one();
  const std::int64_t before = rss_octets();
  for (auto _ : state) {
    for (std::int64_t i = 1; i < state.range(0); ++i)
      benchmark::DoNotOptimize(bed.driver.rx_spi_alloc(Version::kAesGcm128));
    open_one();
  }
  state.counters["spis"] = static_cast<double>(state.range(0));
  state.counters["rx_state_octets"] = static_cast<double>(bed.driver.rx_state_octets());
  state.counters["rss_growth_octets"] = static_cast<double>(rss_octets() - before);
}

// Opens packets of `connections` SPIs in turn: args are cache entries, connections, inner size.
void open_packets(benchmark::State& state, const crypto::Backend* backend) {
  Bed bed(*backend, static_cast<std::size_t>(state.range(0)));
  const auto size = static_cast<std::size_t>(state.range(2));
  std::vector<std::vector<std::uint8_t>> datagrams;
  datagrams.reserve(static_cast<std::size_t>(state.range(1)));
  for (std::int64_t i = 0; i < state.range(1); ++i)
    datagrams.push_back(bed.seal(bed.driver.rx_spi_alloc(Version::kAesGcm128).value(), size));
  std::vector<std::uint8_t> out(size);
  std::size_t next = 0;
  for (auto _ : state) {
    if (!bed.engine->open(datagrams[next], out.data())) state.SkipWithError("does not open");
    next = next + 1 == datagrams.size() ? 0 : next + 1;
  }
  state.SetBytesProcessed(state.iterations() * state.range(2));
}

// Picks up the Tx keys of so many connections in turn; the cache has 256 entries.
void tx_begin(benchmark::State& state, const crypto::Backend* backend) {
  Bed bed(*backend);
  const std::array<std::uint8_t, 16> key{};
  std::vector<std::uint32_t> handles;
  handles.reserve(static_cast<std::size_t>(state.range(0)));
  for (std::int64_t i = 0; i < state.range(0); ++i)
    handles.push_back(bed.driver.tx_key_add(Version::kAesGcm128, Spi{1}, key).value());
  std::size_t next = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(bed.engine->tx_begin(handles[next]));
    next = next + 1 == handles.size() ? 0 : next + 1;
  }
}

// AnySocket is as many established sockets as there are descriptors.
class AnySocket final : public SocketOps {
 public:
  Result<SocketInfo> examine(int fd) override {
    return SocketInfo{static_cast<std::uint64_t>(fd), 0, 1, true};
  }
  Result<void> rx_attach(int, const Association&) override { return {}; }
  Result<device::TxSwitch> tx_attach(int, const Association&) override { return {}; }
};

// The second rotation is timed: it makes all associations stale. The first one only moves a list.
void rotate(benchmark::State& state, const crypto::Backend* backend) {
  for (auto _ : state) {
    state.PauseTiming();
    auto bed = std::make_unique<Bed>(*backend);
    AnySocket sockets;
    SoftwareDevice device(bed->options(0));
    device.join(0);
    auto core = std::make_unique<Core>(sockets);
    const auto id = core->add_device({0, 1}, "bench0", VersionSet::all(), device).value();
    for (std::int64_t fd = 0; fd < state.range(0); ++fd)
      (void)core->rx_assoc({.fd = static_cast<int>(fd),
                            .dev_id = std::nullopt,
                            .version = Version::kAesGcm128,
                            .tx_key = std::nullopt});
    (void)core->key_rotate(id);
    state.ResumeTiming();
    (void)core->key_rotate(id);
    state.PauseTiming();
    if (core->stats(id)->stale_events != static_cast<std::uint64_t>(state.range(0)))
      state.SkipWithError("not all are stale");
    core.reset();
    bed.reset();
    state.ResumeTiming();
  }
}

void register_all(const crypto::Backend* backend) {
  const std::string suffix = "/" + std::string(backend->name());
  benchmark::RegisterBenchmark(("rx_memory" + suffix).c_str(), rx_memory, backend)
      ->Arg(1)
      ->Arg(10'000)
      ->Arg(1'000'000)
      ->Iterations(1)
      ->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark(("open" + suffix).c_str(), open_packets, backend)
      ->ArgNames({"cache", "connections", "octets"})
      ->ArgsProduct({{0, 256}, {1, 100, 10'000}, {64, 1460}});
  benchmark::RegisterBenchmark(("tx_begin" + suffix).c_str(), tx_begin, backend)
      ->ArgName("connections")
      ->Arg(1)
      ->Arg(100)
      ->Arg(10'000);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  register_all(&crypto::openssl_backend());
  if (crypto::ipsec_mb_backend() != nullptr) register_all(crypto::ipsec_mb_backend());
  benchmark::RegisterBenchmark("rotate", rotate, &crypto::openssl_backend())
      ->ArgName("associations")
      ->Arg(1'000)
      ->Arg(1'000'000)
      ->Iterations(1)
      ->Unit(benchmark::kMillisecond);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
