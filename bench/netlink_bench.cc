// SPDX-License-Identifier: Apache-2.0
//
// What a request costs inside the server of the `psp` family: octets in, octets out, with the real
// core and driver, and sockets that are numbers. bench/netlink/run measures a running pspd.
//
// Counter p99_ns: 99 of 100 requests took no longer.
#include <algorithm>
#include <benchmark/benchmark.h>
#include <chrono>
#include <cstring>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <memory>
#include <vector>

#include "crypto/aead.hh"
#include "device/software_device.hh"
#include "netlink/server.hh"
#include <psp/netlink/uapi.h>

namespace {

using namespace psp;
using Octets = std::vector<std::uint8_t>;

// AnySocket is as many established sockets behind netdev 1 as there are cookies.
class AnySocket final : public device::SocketOps {
 public:
  std::uint64_t cookie = 0;
  device::Result<device::SocketInfo> examine(int) override {
    return device::SocketInfo{
        .cookie = cookie, .netns = 0, .route_ifindex = 1, .established = true};
  }
  device::Result<void> rx_attach(int, const device::Association&) override { return {}; }
  device::Result<device::TxSwitch> tx_attach(int, const device::Association&) override {
    return {};
  }
};

std::uint64_t standing_clock() { return 1; }

void put(Octets& octets, const void* data, std::size_t size) {
  const auto* start = static_cast<const std::uint8_t*>(data);
  octets.insert(octets.end(), start, start + size);
  octets.resize((octets.size() + 3) / 4 * 4);
}
void put_attribute(Octets& octets, std::uint16_t type, const void* data, std::size_t size) {
  const nlattr header = {static_cast<std::uint16_t>(sizeof header + size), type};
  put(octets, &header, sizeof header);
  put(octets, data, size);
}
void put_u32(Octets& octets, std::uint16_t type, std::uint32_t value) {
  put_attribute(octets, type, &value, sizeof value);
}

Octets message(std::uint16_t family, std::uint8_t cmd, const Octets& attributes) {
  nlmsghdr header = {};
  header.nlmsg_len = static_cast<std::uint32_t>(NLMSG_HDRLEN + GENL_HDRLEN + attributes.size());
  header.nlmsg_type = family;
  header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  const genlmsghdr generic = {.cmd = cmd, .version = 1, .reserved = 0};
  Octets octets;
  put(octets, &header, sizeof header);
  put(octets, &generic, sizeof generic);
  put(octets, attributes.data(), attributes.size());
  return octets;
}

// Bed is a server with one device, and requests to it.
struct Bed {
  Bed() {
    core.set_notifier(&server);
    driver.join(0);
    (void)core.add_device({0, 1}, "bench0", VersionSet::all(), driver);
    const std::uint8_t name[] = PSPNL_FAMILY_NAME;
    Octets named;
    put_attribute(named, CTRL_ATTR_FAMILY_NAME, name, sizeof name);
    // The number stands behind the name: header 20, name 8, attribute header 4.
    const Octets answer = ask(message(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, named));
    std::memcpy(&family, answer.data() + 32, sizeof family);

    Octets id, rx, tx, key;
    put_u32(id, PSPNL_DEV_ID, 1);
    put_u32(rx, PSPNL_ASSOC_VERSION, 0);
    put_u32(rx, PSPNL_ASSOC_SOCK_FD, 3);
    put_u32(key, PSPNL_KEYS_SPI, 5);
    put_attribute(key, PSPNL_KEYS_KEY, "0123456789abcdef", 16);
    put_u32(tx, PSPNL_ASSOC_VERSION, 0);
    put_attribute(tx, PSPNL_ASSOC_TX_KEY | NLA_F_NESTED, key.data(), key.size());
    put_u32(tx, PSPNL_ASSOC_SOCK_FD, 3);
    dev_get = message(family, PSPNL_CMD_DEV_GET, id);
    rx_assoc = message(family, PSPNL_CMD_RX_ASSOC, rx);
    tx_assoc = message(family, PSPNL_CMD_TX_ASSOC, tx);
  }
  static device::SoftwareDriverOptions options(device::IvAllocator& ivs) {
    device::SoftwareDriverOptions o;
    o.backend = crypto::find_backend("auto");
    o.ivs = &ivs;
    return o;
  }
  // ask returns the first answer; all are kept for done().
  const Octets& ask(const Octets& request) {
    answers.clear();
    server.handle(caller, request, 3, answers);
    return answers.front();
  }
  // done: the last request had a reply, not a refusal.
  bool done() const { return answers.size() == 2; }

  device::IvAllocator ivs{standing_clock};
  device::SoftwareDevice driver{options(ivs)};
  AnySocket sockets;
  device::Core core{sockets};
  netlink::Server server{core, nullptr};
  netlink::Caller caller{.net_admin = true};
  std::vector<netlink::Datagram> answers;
  std::uint16_t family = 0;
  Octets dev_get, rx_assoc, tx_assoc;
};

// Latencies keeps each duration; p99 is exact.
class Latencies {
 public:
  explicit Latencies(std::size_t expected) { all_.reserve(expected); }
  template <typename Act>
  void time(Act&& act) {
    const auto start = std::chrono::steady_clock::now();
    act();
    all_.push_back(std::chrono::steady_clock::now() - start);
  }
  void report(benchmark::State& state) {
    if (all_.empty()) return;
    const auto at = all_.begin() + static_cast<std::ptrdiff_t>(all_.size() * 99 / 100);
    std::nth_element(all_.begin(), at, all_.end());
    state.counters["p99_ns"] = std::chrono::duration<double, std::nano>(*at).count();
    state.SetItemsProcessed(state.iterations());
  }

 private:
  std::vector<std::chrono::steady_clock::duration> all_;
};

void dev_get(benchmark::State& state) {
  Bed bed;
  Latencies latencies(1 << 22);
  for (auto _ : state) latencies.time([&] { bed.ask(bed.dev_get); });
  if (!bed.done()) state.SkipWithError("refused");
  latencies.report(state);
}

// A pair is rx-assoc, tx-assoc and, at its end, the socket's release, with so many associations
// there already.
void pair(benchmark::State& state) {
  Bed bed;
  const auto standing = static_cast<std::uint64_t>(state.range(0));
  for (bed.sockets.cookie = 1; bed.sockets.cookie <= standing; ++bed.sockets.cookie) {
    bed.ask(bed.rx_assoc);
    bed.ask(bed.tx_assoc);
  }
  Latencies latencies(1 << 22);
  for (auto _ : state) {
    ++bed.sockets.cookie;
    latencies.time([&] {
      bed.ask(bed.rx_assoc);
      bed.ask(bed.tx_assoc);
    });
    bed.core.release(bed.sockets.cookie);
  }
  if (!bed.done()) state.SkipWithError("refused");
  latencies.report(state);
}

BENCHMARK(dev_get);
BENCHMARK(pair)->Arg(0)->Arg(10'000)->Arg(100'000)->ArgName("standing");

}  // namespace

BENCHMARK_MAIN();
