// SPDX-License-Identifier: Apache-2.0
//
// The checks that can fail before anything is in place, each with how to set it right. What is
// random is so for each run: source ports tell nothing of another one.
//
// Source ports are taken from the host's own range (ip_local_port_range), as those of the kernel's
// UDP tunnels are; if it cannot be read, the defaults stay. A processor that this process may not
// run on is an error, since a worker could not be bound to it.
#include "device_options.hh"

#include <algorithm>
#include <fmt/format.h>
#include <fstream>
#include <optional>
#include <sched.h>
#include <span>
#include <unistd.h>

#include "crypto/aead.hh"

#include "clocks.hh"

namespace psp::host {
namespace {

// read_ports reads net.ipv4.ip_local_port_range, from which source ports are taken.
void read_ports(datapath::TxOptions& tx) {
  std::ifstream file("/proc/sys/net/ipv4/ip_local_port_range");
  unsigned first = 0, last = 0;
  if (file >> first >> last && first > 0 && first < last && last <= 65535) {
    tx.port_first = static_cast<std::uint16_t>(first);
    tx.port_last = static_cast<std::uint16_t>(last);
  }
}

// not_allowed is the first of the processors that this process may not run on.
std::optional<unsigned> not_allowed(std::span<const unsigned> cpus) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) return std::nullopt;  // not known
  const auto found =
      std::ranges::find_if(cpus, [&](unsigned cpu) { return !CPU_ISSET(cpu, &allowed); });
  return found == cpus.end() ? std::nullopt : std::optional(*found);
}

}  // namespace

std::expected<kernel::HostDeviceOptions, std::string> device_options(const Settings& settings,
                                                                     device::IvAllocator& ivs) {
  const crypto::Backend* backend = crypto::find_backend(settings.crypto);
  if (backend == nullptr)
    return std::unexpected(fmt::format(
        "no crypto backend '{}' on this processor: use --crypto auto", settings.crypto));
  if (const auto wrong = crypto::self_test(*backend))
    return std::unexpected(fmt::format(
        "{} failed its self-test ({}): not a key will be trusted to it", backend->name(), *wrong));
  if (const auto other = not_allowed(settings.cpus))
    return std::unexpected(
        fmt::format("--cpus: processor {} is none that pspd may run on (see taskset -p {})", *other,
                    ::getpid()));
  kernel::HostDeviceOptions options;
  options.driver.backend = backend;
  options.driver.ivs = &ivs;
  options.driver.now_ns = wall_nanoseconds;
  options.driver.rx_cache_entries = settings.rx_cache;
  options.workers = settings.workers;
  options.cpus = settings.cpus;
  options.busy_poll_us = settings.busy_poll_us;
  options.peers = datapath::Peers(settings.allow_peers);
  options.tx.udp_checksum = settings.udp_checksum;
  read_ports(options.tx);
  crypto::random_bytes(
      {reinterpret_cast<std::uint8_t*>(&options.tx.port_key), sizeof options.tx.port_key});
  return options;
}

}  // namespace psp::host
