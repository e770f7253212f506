// SPDX-License-Identifier: Apache-2.0
//
// How a host starts and stops. Nothing of a device can be used by anybody before all of it is in
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
//   7. each device: its TAP, which is nobody's and down; the programs at the TAP, then those at the
//      netdev; the TAP comes up; sockets may send by it
//   8. the control socket: clients may ask
// A stop is the way back:
//   8. no client may ask
//   7. secured connections are aborted. If one is left that could go on, all programs stay and
//      block it; else the programs leave the netdevs, and the TAPs go, each with its netdev's lock
//   4. the socket programs; then who has begun another connection meanwhile is aborted
//   2. this pspd's own lock, with the process
// A crash at any step leaves what a dead pspd leaves: programs that block, and no lock.
#include "host.hh"

#include <cerrno>
#include <fmt/ranges.h>
#include <net/if.h>
#include <thread>

#include "base/counted.hh"
#include "base/udp_port.hh"
#include "crypto/aead.hh"
#include "device/state_table.h"
#include "kernel/host_lock.hh"

#include "clocks.hh"
#include "device_options.hh"

namespace psp::host {
namespace {

using namespace std::chrono_literals;

// What is on its way to the wire at a stop: RSTs of the connections that it ends.
constexpr auto kDrain = 100ms;
constexpr auto kPause = 50ms;
constexpr int kPatience = 10;

std::uint64_t random_number() {
  std::uint64_t number = 0;
  crypto::random_bytes({reinterpret_cast<std::uint8_t*>(&number), sizeof number});
  return number;
}

// is_still_to_come: there is no netdev of that name, but there could be one.
bool is_still_to_come(const std::string& name) {
  return !name.empty() && name.size() < IFNAMSIZ && ::if_nametoindex(name.c_str()) == 0 &&
         errno == ENODEV;
}

}  // namespace

Host::Host(Loop& loop, const Log& log, const Settings& settings, std::string version)
    : loop_(loop),
      log_(log),
      settings_(settings),
      self_{.version = std::move(version), .crypto_backend = {}, .instance = random_number()},
      ivs_(boot_picoseconds) {}

Host::~Host() {
  if (devices_) devices_->core().set_notifier(nullptr);  // which goes before the devices
}

std::expected<std::unique_ptr<Host>, std::string> Host::start(Loop& loop, const Log& log,
                                                              const Settings& settings,
                                                              std::string version) {
  std::unique_ptr<Host> host(new Host(loop, log, settings, std::move(version)));
  if (auto up = host->bring_up(); !up) {
    (void)host->stop();  // it says itself what stays
    return std::unexpected(up.error());
  }
  return host;
}

std::expected<void, std::string> Host::bring_up() {
  auto options = device_options(settings_, ivs_);
  if (!options) return std::unexpected(options.error());
  self_.crypto_backend = options->driver.backend->description();
  auto sockets = SecuredSockets::open(log_);
  if (!sockets) return std::unexpected(sockets.error());
  sockets_ = std::move(*sockets);
  auto claims = claim_netdevs();
  if (!claims) return std::unexpected(claims.error());
  if (auto attached = attach_programs(*claims); !attached) return attached;
  assemble(std::move(*options));
  if (auto listening = events_->listen(); !listening) return listening;
  for (const std::string& name : absent_) devices_->want(name);
  for (Claim& claim : *claims)
    if (auto added = devices_->add(claim.netdev, std::move(claim.lock)); !added) return added;
  if (auto serving = serve(); !serving) return serving;
  return watch();
}

std::expected<std::vector<Host::Claim>, std::string> Host::claim_netdevs() {
  std::vector<Claim> claims;
  for (const std::string& name : settings_.devices) {
    if (!settings_.require && is_still_to_come(name)) {
      log_.warn("{}: there is no such netdev yet; it gets its PSP device when it comes", name);
      absent_.push_back(name);
      continue;
    }
    auto netdev = kernel::find_netdev(name);
    if (!netdev) return std::unexpected(netdev.error());
    auto lock = kernel::lock_netdev(netdev->key(), name);
    if (!lock) return std::unexpected(lock.error());
    claims.push_back({std::move(*netdev), std::move(*lock)});
  }
  return claims;
}

std::expected<void, std::string> Host::attach_programs(const std::vector<Claim>& claims) {
  std::vector<kernel::Netdev> netdevs;
  netdevs.reserve(claims.size());
  for (const Claim& claim : claims) netdevs.push_back(claim.netdev);
  return sockets_->attach(settings_, netdevs);
}

// assemble makes the parts that know each other, each of those that it needs.
void Host::assemble(kernel::HostDeviceOptions options) {
  const auto entered = [this](const kernel::Netns& netns) {
    if (netns.cookie() != sockets_->namespaces().home().cookie()) listeners_->listen_in(netns);
  };
  devices_.emplace(Devices::Given{*sockets_, settings_, std::move(options), log_, entered});
  kernel::KernelSockets& operations = sockets_->operations();
  departures_.emplace(
      devices_->core(),
      Departures::Sockets{
          .is_released =
              [&operations](std::uint64_t cookie) { return operations.is_released(cookie); },
          .forget = [&operations](std::uint64_t cookie) { return operations.forget(cookie); }});
  for (const std::uint64_t cookie : sockets_->inherited()) departures_->inherit(cookie);
  walk_.emplace(*sockets_);
  lists_.emplace(*walk_, [this] { lists_turn_.enable(true); });
  recount_.emplace(*lists_, *departures_);
  inspection_.emplace(self_, *devices_, *sockets_, *lists_, settings_.allow_key_export, loop_,
                      log_);
  server_.emplace(devices_->core(), &*inspection_);
  devices_->core().set_notifier(&*server_);
  events_.emplace(loop_, calls());
}

std::expected<void, std::string> Host::serve() {
  clients_.emplace(loop_, *server_);
  listeners_.emplace(*clients_, settings_.socket, log_);
  if (auto listening = listeners_->listen_at_home(); !listening) return listening;
  if (settings_.allow_key_export)
    log_.warn("--allow-key-export: root can have the keys of the connections that it captures");
  if (udp_port_in_use(kUdpPort))
    log_.warn("another program uses UDP port {}: it does not get what looks like PSP", kUdpPort);
  return {};
}

int Host::stop() {
  listeners_.reset();
  clients_.reset();
  events_.reset();
  regularly_ = {};
  soon_ = {};
  soon_at_home_ = {};
  lists_turn_ = {};
  expiry_turn_ = {};
  look_turn_ = {};
  rotation_ = {};
  walk_.reset();
  if (!sockets_ || !sockets_->attached()) return 0;
  if (!end_connections()) {
    if (devices_) (void)devices_->end_all(false);  // it is an error already
    return 1;
  }
  const bool clean = !devices_ || devices_->end_all(true);
  auto done = sockets_->clear_netdevs();
  if (done && !clean) log_.info("what was left on netdevs is off them now");
  if (done) done = sockets_->detach();
  if (!done) log_.error("{}", done.error());
  return done ? 0 : 1;
}

// end_connections aborts what is secured, also if the device has gone: the socket programs are all
// that holds its sockets. False: some could still go on.
bool Host::end_connections() {
  // RSTs of those that end now, FINs and ACKs of those that did.
  bool had_connections = departures_ && departures_->pending();
  if (devices_)
    devices_->core().associations().for_each([&](const auto&) { had_connections = true; });
  auto left = sockets_->end_all();
  // Programs may be about to close what has ended.
  for (int i = 0; i < kPatience && left && *left != 0; i++) {
    std::this_thread::sleep_for(kPause);
    left = sockets_->end_all();
  }
  if (left && *left == 0 && had_connections) {
    std::this_thread::sleep_for(kDrain);
    left = sockets_->end_all();  // who has begun another connection meanwhile
  }
  if (left && *left == 0) return true;
  if (left)
    log_.error(
        "{} open and cannot be aborted (disconnected, or the kernel has no "
        "CONFIG_INET_DIAG_DESTROY): pspd's programs stay in place and block what is open; the next "
        "pspd takes them on, or 'pspd --cleanup' removes them",
        counted(*left, "secured socket is", "secured sockets are"));
  else
    log_.error("{}: pspd's programs stay in place", left.error());
  return false;
}

void Host::apply(const Settings& next) {
  look_after();  // a netdev may have another name now
  if (const auto fixed = fixed_changes(settings_, next); !fixed.empty())
    log_.error("only a restart changes this, so it stays as it is: {}", fmt::join(fixed, ", "));
  if (next.rotate_interval != settings_.rotate_interval) {
    if (rotate_every(next.rotate_interval))
      settings_.rotate_interval = next.rotate_interval;
    else
      log_.error("out of memory: rotate-interval stays as it is");
  }
  settings_.devices = next.devices;
  devices_->apply(settings_.devices);
  if (next.enable != settings_.enable && devices_->set_versions(next.enable))
    settings_.enable = next.enable;
  devices_->find_wanted(loop_.now());
}

}  // namespace psp::host
