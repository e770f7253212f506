// SPDX-License-Identifier: Apache-2.0
#include "host_device.hh"

#include <algorithm>
#include <fmt/format.h>
#include <utility>

#include <psp/device/state_table.h>

#include "sock_diag.hh"

namespace psp::datapath {
namespace {

// Joined PSP packets reach the TAP joined only with this: a NIC's driver otherwise cuts UDP apart
// that no local socket has asked for.
constexpr const char* kUdpGroForwarding = "rx-udp-gro-forwarding";

}  // namespace

HostDevice::HostDevice(const HostDeviceContext& context, Netdev netdev, Tap tap,
                       const HostDeviceOptions& options)
    : context_(context),
      netdev_(std::move(netdev)),
      tap_(std::move(tap)),
      software_(options.driver) {}

std::expected<std::unique_ptr<HostDevice>, std::string> HostDevice::attach(
    const HostDeviceContext& context, const std::string& name, const HostDeviceOptions& options) {
  auto netdev = find_netdev(name);
  if (!netdev) return std::unexpected(netdev.error());
  auto tap = Tap::open("psp%d", options.workers);
  if (!tap) return std::unexpected(fmt::format("{}: {}", name, tap.error().text));
  std::unique_ptr<HostDevice> device(
      new HostDevice(context, std::move(*netdev), std::move(*tap), options));
  if (auto started = device->start(options); !started) {
    device->detach();
    return std::unexpected(started.error());
  }
  return device;
}

std::expected<void, std::string> HostDevice::start(const HostDeviceOptions& options) {
  TxOptions tx = options.tx;
  tx.mtu = netdev_.mtu;
  tx.uso = tap_.has_uso();
  if (!tap_.notice().empty()) notices_.push_back(tap_.notice());
  for (unsigned number = 0; number < tap_.queues(); number++)
    workers_.push_back(
        std::make_unique<Worker>(tap_.fd(number), software_.make_engine(),
                                 WorkerOptions{netdev_.name, number, options.busy_poll_us, tx}));

  auto id = context_.core.add_device({context_.sockets.netns_cookie(), netdev_.ifindex},
                                     netdev_.name, VersionSet::all(), *this);
  if (!id) return std::unexpected(fmt::format("{}: the device cannot be registered", netdev_.name));
  id_ = *id;
  context_.sockets.bind_device(id_, {netdev_.ifindex, tap_.ifindex(), &software_});

  const auto leftover = find_leftover(netdev_);
  auto programs =
      NetdevPrograms::load(context_.secrets, context_.programs, netdev_, tap_.ifindex(), id_);
  if (!programs) return std::unexpected(programs.error());
  programs_ = std::move(*programs);
  if (leftover) programs_->set_restore(leftover->restore);
  if (auto attached = programs_->attach(); !attached) return attached;
  context_.programs.guard(netdev_.ifindex, true);
  if (leftover) remove_leftover(netdev_, *leftover, false);
  tune();
  return {};
}

void HostDevice::tune() {
  auto was = set_feature(netdev_.name, kUdpGroForwarding, true);
  if (!was)
    notices_.push_back(was.error() + ": received packets may come one by one, which is slow");
  else if (!*was)
    programs_->set_restore(programs_->restore() | PSP_RESTORE_UDP_GRO_FORWARDING);
}

void HostDevice::detach() {
  if (!programs_) return;
  if (programs_->restore() & PSP_RESTORE_UDP_GRO_FORWARDING)
    (void)set_feature(netdev_.name, kUdpGroForwarding, false);
  programs_->detach();
}

HostDevice::~HostDevice() {
  context_.programs.guard(netdev_.ifindex, false);
  if (id_ != 0) {
    context_.core.remove_device(id_);
    context_.sockets.unbind_device(id_);
  }
}

bool HostDevice::refresh() {
  auto now = find_netdev(netdev_.ifindex);
  if (!now) return false;
  if (now->mac != netdev_.mac) programs_->set_mac(now->mac);
  if (now->mtu != netdev_.mtu)
    for (auto& worker : workers_) worker->set_mtu(now->mtu);
  netdev_ = std::move(*now);
  return true;
}

std::expected<bool, std::string> HostDevice::heal() {
  if (programs_->attached()) return false;
  // Off and on again: a new filter goes to the head of the line. Nothing leaves meanwhile.
  context_.programs.guard(netdev_.ifindex, false);
  programs_->remove_filters();
  if (auto attached = programs_->attach(); !attached) return std::unexpected(attached.error());
  context_.programs.guard(netdev_.ifindex, true);
  return true;
}

device::Result<void> HostDevice::set_config(const device::DeviceConfig& current,
                                            const device::DeviceConfig& next) {
  auto done = software_.set_config(current, next);
  if (done && programs_) programs_->set_versions(next.versions_ena);
  return done;
}

bool HostDevice::failed() const {
  return std::ranges::any_of(workers_, [](const auto& worker) { return worker->failed(); });
}

DropCounts HostDevice::drops() const {
  DropCounts drops = software_.drops();
  if (!programs_) return drops;
  const DropCounts programs = programs_->drops();
  for (std::size_t i = 0; i < drops.size(); i++) drops[i] += programs[i];
  return drops;
}

std::expected<std::size_t, std::string> end_secured_sockets(int assoc_map) {
  // Again until none is left: a listing can miss sockets while others come and go.
  constexpr int kRounds = 10;
  std::size_t left = 0;
  for (int round = 0; round < kRounds; round++) {
    auto sockets = secured_sockets(assoc_map);
    if (!sockets) return std::unexpected(sockets.error());
    std::erase_if(*sockets, [](const auto& socket) { return socket.assoc.state < PSP_STATE_TX; });
    left = sockets->size();
    if (left == 0) break;
    for (const SecuredSocket& socket : *sockets) (void)destroy_socket(socket);
  }
  return left;
}

}  // namespace psp::datapath
