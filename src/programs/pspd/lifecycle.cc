// SPDX-License-Identifier: Apache-2.0
//
// How pspd starts and stops. Nothing of a device can be used by anybody before all of it is in
// place, and nothing of a dead pspd's connections is let go before they have ended.
//
// A start:
//   1. settings and cryptography: nothing of the host is touched
//   2. the locks: this pspd lives, and the netdevs are its own; those that are not there yet are
//      waited for
//   3. connections of a dead pspd are aborted; its programs still block them
//   4. the socket programs, with a dead pspd's maps: what it secured and cannot be found stays
//      blocked
//   5. a dead pspd's own programs go
//   6. the news of sockets that end
//   7. each device: its TAP, which is root's and down; the programs at the TAP, then those at the
//      netdev; the TAP comes up; sockets may send by it
//   8. the control socket: clients may ask
// A stop is the way back:
//   8. no client may ask
//   7. secured connections are aborted. If one is left that could go on, all programs stay and
//      block it; else the programs leave the netdevs, and the TAPs go
//   4. the socket programs
//   2. the locks, with the process
// A crash at any step leaves what a dead pspd leaves: programs that block, and no lock.
#include <algorithm>
#include <cerrno>
#include <fstream>
#include <net/if.h>
#include <sched.h>
#include <spdlog/spdlog.h>
#include <thread>
#include <unistd.h>

#include <psp/base/udp_port.hh>
#include <psp/crypto/aead.hh>
#include <psp/netlink/client.hh>
#include <psp/netlink/uapi.h>

#include "daemon.hh"
#include "host_lock.hh"
#include "leftovers.hh"

namespace psp {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

// What is on its way to the wire when pspd stops: RSTs of the connections that it ends.
constexpr auto kDrain = 100ms;
constexpr auto kPause = 50ms;
constexpr int kPatience = 10;

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

// is_still_to_come: there is no netdev of that name, but there could be one.
bool is_still_to_come(const std::string& name) {
  return !name.empty() && name.size() < IFNAMSIZ && ::if_nametoindex(name.c_str()) == 0 &&
         errno == ENODEV;
}

// kernel_has_device: the kernel's family has a PSP device on that netdev of this namespace.
bool kernel_has_device(unsigned ifindex) {
  auto kernel = Client::connect_kernel();
  if (!kernel) return false;
  const auto devices = kernel->devices();
  return devices && std::ranges::any_of(*devices, [&](const DeviceInfo& device) {
           return !device.by_association && device.ifindex == ifindex;
         });
}

}  // namespace

std::expected<void, std::string> Daemon::bring_up() {
  if (auto set = set_up(); !set) return set;
  auto namespaces = datapath::NetnsTable::open();
  if (!namespaces) return std::unexpected(namespaces.error());
  namespaces_ = std::move(*namespaces);
  auto alive = datapath::lock_epoch(secrets_.epoch);
  if (!alive) return std::unexpected(alive.error());
  alive_ = std::move(*alive);
  auto claims = claim_netdevs();
  if (!claims) return std::unexpected(claims.error());
  if (auto attached = attach_programs(*claims); !attached) return attached;

  sockets_ = std::make_unique<datapath::KernelSockets>(secrets_, *programs_, *namespaces_);
  sockets_->set_any_state(options_.compat < device::Compat::kNetNext);
  core_ = std::make_unique<device::Core>(*sockets_, static_cast<device::NetdevOps*>(this));
  core_->set_compat(options_.compat);
  // Programs know a device by its number alone, whether it is the kernel's or ours.
  const auto kernel = Client::connect_kernel();
  if (kernel || kernel.error().sys_errno != ENOENT) core_->set_first_id(SOFTPSP_FIRST_DEVICE);
  // Sockets with an Rx key only have no note in the programs' maps.
  core_->set_limits({std::size_t{2} * options_.max_connections, options_.max_connections / 2});
  server_ = std::make_unique<netlink::Server>(*core_, static_cast<netlink::Inspector*>(this));
  core_->set_listener(server_.get());
  auto destroyed = datapath::DestroyEvents::open();
  if (!destroyed) return std::unexpected(destroyed.error());
  destroyed_ = std::move(*destroyed);
  for (Claim& claim : *claims) {
    auto added = add_device(claim.netdev, std::move(claim.lock));
    if (!added) return std::unexpected(added.error());
    wanted_.push_back({.name = claim.netdev.name, .device = *added});
  }
  if (auto listening = listen_at_home(); !listening) return listening;
  if (options_.allow_key_export)
    spdlog::warn("--allow-key-export: root can have the keys of the connections that it captures");
  if (udp_port_in_use(kUdpPort))
    spdlog::warn("another program uses UDP port {}: it does not get what looks like PSP", kUdpPort);
  return watch();
}

std::expected<void, std::string> Daemon::set_up() {
  backend_ = crypto::find_backend(options_.crypto);
  if (backend_ == nullptr)
    return std::unexpected(fmt::format(
        "no crypto backend '{}' on this processor: use --crypto auto", options_.crypto));
  if (const auto wrong = crypto::self_test(*backend_))
    return std::unexpected(fmt::format(
        "{} failed its self-test ({}): not a key will be trusted to it", backend_->name(), *wrong));
  device_options_.driver.backend = backend_;
  device_options_.driver.ivs = &ivs_;
  device_options_.driver.rx_cache_entries = options_.rx_cache;
  device_options_.workers = options_.workers;
  if (const auto other = not_allowed(options_.cpus))
    return std::unexpected(
        fmt::format("--cpus: processor {} is none that pspd may run on (see taskset -p {})", *other,
                    ::getpid()));
  device_options_.cpus = options_.cpus;
  device_options_.busy_poll_us = options_.busy_poll_us;
  device_options_.peers = datapath::Peers(options_.allow_peers);
  device_options_.tx.udp_checksum = options_.udp_checksum;
  read_ports(device_options_.tx);
  crypto::random_bytes({reinterpret_cast<std::uint8_t*>(&device_options_.tx.port_key),
                        sizeof device_options_.tx.port_key});
  return {};
}

std::expected<std::vector<Daemon::Claim>, std::string> Daemon::claim_netdevs() {
  std::vector<Claim> claims;
  for (const std::string& name : options_.devices) {
    if (!options_.require && is_still_to_come(name)) {
      spdlog::warn("{}: there is no such netdev yet; it gets its PSP device when it comes", name);
      wanted_.push_back({.name = name});
      continue;
    }
    auto netdev = datapath::find_netdev(name);
    if (!netdev) return std::unexpected(netdev.error());
    auto lock = datapath::lock_netdev(netdev->key(), name);
    if (!lock) return std::unexpected(lock.error());
    claims.push_back({std::move(*netdev), std::move(*lock)});
  }
  return claims;
}

// attach_programs puts our socket programs in the place of those of dead pspds.
std::expected<void, std::string> Daemon::attach_programs(const std::vector<Claim>& claims) {
  std::vector<datapath::Netdev> netdevs;
  std::vector<device::NetdevKey> keys;
  for (const Claim& claim : claims) {
    netdevs.push_back(claim.netdev);
    keys.push_back(claim.netdev.key());
  }
  const auto alone = datapath::lock_takeover(true);
  if (!alone) return std::unexpected(alone.error());
  const auto earlier = take_over(netdevs);
  if (!earlier) return std::unexpected(earlier.error());
  auto programs =
      datapath::SocketPrograms::load(secrets_, options_.max_connections,
                                     earlier->empty() ? nullptr : &earlier->front().leftover.maps);
  if (!programs) return std::unexpected(programs.error());
  programs_ = std::move(*programs);
  if (auto attached = programs_->attach(namespaces_of(*earlier)); !attached) return attached;
  for (const Taken& taken : *earlier) {
    const bool inherited = &taken == &earlier->front() && programs_->inherited();
    if (auto gone = let_go(taken, keys, inherited); !gone) return gone;
  }
  return programs_->inherited() ? inherit() : std::expected<void, std::string>{};
}

// namespaces_of are those where there may be secured sockets of this pspd, or of one that it
// inherits from.
std::vector<std::uint64_t> Daemon::namespaces_of(const std::vector<Taken>& earlier) const {
  std::vector<std::uint64_t> all{namespaces_->home().cookie()};
  if (programs_->inherited())
    for (const device::NetdevKey key : earlier.front().leftover.netdevs) all.push_back(key.netns);
  return all;
}

// inherit takes over the sockets of an earlier pspd that are still to be seen to end.
std::expected<void, std::string> Daemon::inherit() {
  const auto noted = datapath::noted_sockets(programs_->noted_map());
  if (!noted) return std::unexpected(noted.error());
  // Those that are closed go at the first looks: without their keys nothing of theirs can be
  // sealed, and their TIME_WAITs would keep new connections with the same ports from beginning.
  for (const datapath::Noted& socket : *noted) unseen_.push_back(socket.cookie);
  return {};
}

std::expected<std::uint16_t, std::string> Daemon::add_device(const datapath::Netdev& netdev,
                                                             UniqueFd lock) {
  auto device =
      datapath::HostDevice::attach({secrets_, *programs_, *namespaces_, *sockets_, *core_}, netdev,
                                   std::move(lock), device_options_);
  if (!device) return std::unexpected(device.error());
  for (const std::string& notice : (*device)->main().notices()) spdlog::warn("{}", notice);
  if (options_.enable.bits != 0) {
    if (auto set = core_->set_versions((*device)->id(), options_.enable); !set) {
      const auto undone = (*device)->detach();
      return std::unexpected(fmt::format(
          "{}: the versions cannot be enabled{}{}", netdev.name,
          undone ? "" : ", and what is in place already stays: ", undone ? "" : undone.error()));
    }
  }
  devices_.push_back(std::move(*device));
  const datapath::HostDevice& added = *devices_.back();
  spdlog::info("{}: PSP device {} with {}, {} worker{}, MTU {}", netdev.name, added.id(),
               backend_->description(), options_.workers, options_.workers == 1 ? "" : "s",
               added.netdev().mtu);
  if (kernel_has_device(netdev.ifindex))
    spdlog::warn(
        "{}: the kernel has a PSP device of its own there, which programs do not use while "
        "pspd serves {}",
        netdev.name, netdev.name);
  if (options_.enable.bits == 0)
    spdlog::info("{}: receive is disabled: 'pspctl dev set {} psp-versions-ena all' enables it",
                 netdev.name, netdev.name);
  return added.id();
}

int Daemon::shut_down() {
  listeners_.clear();
  control_.reset();
  sources_.clear();
  // RSTs of those that end now, FINs and ACKs of those that did.
  bool had_connections = !departed_.empty();
  if (core_) core_->for_each_association([&](const auto&) { had_connections = true; });
  if (programs_) {  // also if the device has gone: these programs are all that holds its sockets
    auto left = end_connections();
    // Programs may be about to close what has ended.
    for (int i = 0; i < kPatience && left && *left != 0; i++) {
      std::this_thread::sleep_for(kPause);
      left = end_connections();
    }
    if (!left || *left != 0) {
      if (left)
        spdlog::error(
            "{} secured sockets are open and cannot be aborted (disconnected, or the kernel has no "
            "CONFIG_INET_DIAG_DESTROY): pspd's programs stay in place and block them; the next "
            "pspd takes them on, or 'pspd --cleanup' removes them",
            *left);
      else
        spdlog::error("{}: pspd's programs stay in place", left.error());
      (void)end_devices(false);  // it is an error already
      return 1;
    }
    if (had_connections) std::this_thread::sleep_for(kDrain);
  }
  bool clean = end_devices(true);
  if (!programs_) return clean ? 0 : 1;
  if (const auto done = programs_->detach(); !done) {
    spdlog::error("{}", done.error());
    clean = false;
  }
  return clean ? 0 : 1;
}

// end_connections aborts what is secured. Returns how many sockets could still go on.
std::expected<std::size_t, std::string> Daemon::end_connections() const {
  const auto ended =
      datapath::end_secured_sockets({programs_->assoc_map(), programs_->noted_map()}, *namespaces_);
  if (!ended) return std::unexpected(ended.error());
  const auto noted = datapath::noted_sockets(programs_->noted_map());
  if (!noted) return std::unexpected(noted.error());
  return ended->left + datapath::count_unseen(*noted, ended->aborted);
}

// end_devices unregisters all devices while they are there to be asked to let go of others. False:
// something stays.
bool Daemon::end_devices(bool clean) {
  bool all = true;
  keep_programs_ = !clean;
  for (auto& device : devices_) {
    const auto done = clean ? device->detach() : std::expected<void, std::string>{};
    if (!done) spdlog::error("{}", done.error());
    all &= done.has_value();
    if (!clean) device->leave_in_place();
    core_->remove_device(device->id());
  }
  devices_.clear();
  return all;
}

}  // namespace psp
