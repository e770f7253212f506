// SPDX-License-Identifier: Apache-2.0
#include "attachment.hh"

#include <algorithm>
#include <fmt/format.h>
#include <utility>

namespace psp::datapath {
std::expected<std::unique_ptr<Attachment>, std::string> Attachment::open(
    const Netns& netns, const Netdev& netdev, UniqueFd lock, device::SoftwareDriver& driver,
    const HostDeviceOptions& options) {
  std::expected<Tap, TapError> tap = [&] {
    const InNetns inside(netns);
    if (!inside.entered())
      return std::expected<Tap, TapError>(
          std::unexpect, TapError{EPERM, "its network namespace cannot be entered"});
    return Tap::open("psp%d", options.workers);
  }();
  if (!tap) return std::unexpected(fmt::format("{}: {}", netdev.name, tap.error().text));
  std::unique_ptr<Attachment> attachment(
      new Attachment(netns, netdev, std::move(lock), std::move(*tap)));
  TxOptions tx = options.tx;
  tx.mtu = netdev.mtu;
  tx.uso = attachment->tap_.has_uso();
  if (!attachment->tap_.notice().empty()) attachment->notices_.push_back(attachment->tap_.notice());
  for (unsigned number = 0; number < attachment->tap_.queues(); number++) {
    WorkerOptions worker{netdev.name, number, options.busy_poll_us, {}, tx};
    if (!options.cpus.empty()) worker.cpu = options.cpus[number % options.cpus.size()];
    attachment->workers_.push_back(
        std::make_unique<Worker>(attachment->tap_.fd(number), driver.make_engine(), worker));
  }
  return attachment;
}

Attachment::~Attachment() {
  if (shared_ != nullptr) shared_->unguard(netdev_.key());
}

std::expected<void, std::string> Attachment::start(const Secrets& secrets,
                                                   const SocketPrograms& shared,
                                                   std::uint16_t dev_id, VersionSet versions,
                                                   std::uint32_t rotation) {
  const InNetns inside(netns_);
  if (!inside.entered()) return std::unexpected(netdev_.name + ": its namespace cannot be entered");
  dev_id_ = dev_id;
  const auto leftover = find_leftover(netdev_);
  Secrets own = secrets;
  own.mark = Secrets::random().mark;  // root of that namespace can learn it
  auto programs = NetdevPrograms::load(own, shared, netdev_, tap_.ifindex(), dev_id);
  if (!programs) return std::unexpected(programs.error());
  programs_ = std::move(*programs);
  programs_->set_versions(versions);
  programs_->set_rotation(rotation);
  if (leftover) programs_->set_restore(leftover->restore);
  if (auto attached = programs_->attach(); !attached) return attached;
  shared_ = &shared;
  shared.remember(netdev_.netns);
  shared.guard(netdev_.key(), dev_id);
  if (leftover) remove_leftover(netdev_, *leftover, false);
  tune();
  return {};
}

void Attachment::tune() {
  auto was = set_feature(netdev_.name, kUdpGroForwarding, true);
  if (!was)
    notices_.push_back(was.error() + ": received packets may come one by one, which is slow");
  else if (!*was)
    programs_->set_restore(programs_->restore() | PSP_RESTORE_UDP_GRO_FORWARDING);
}

void Attachment::detach() {
  if (!programs_) return;
  const InNetns inside(netns_);
  if (!inside.entered()) return;
  if (shared_ != nullptr) shared_->unguard(netdev_.key());
  if (programs_->restore() & PSP_RESTORE_UDP_GRO_FORWARDING)
    (void)set_feature(netdev_.name, kUdpGroForwarding, false);
  programs_->detach();
}

bool Attachment::refresh() {
  const InNetns inside(netns_);
  if (!inside.entered()) return false;
  auto now = find_netdev(netdev_.ifindex);
  if (!now) return false;
  if (now->mac != netdev_.mac) programs_->set_mac(now->mac);
  if (now->mtu != netdev_.mtu)
    for (auto& worker : workers_) worker->set_mtu(now->mtu);
  netdev_ = std::move(*now);
  return true;
}

bool Attachment::failed() const {
  return std::ranges::any_of(workers_, [](const auto& worker) { return worker->failed(); });
}

std::expected<bool, std::string> Attachment::heal() {
  const InNetns inside(netns_);
  if (!inside.entered() || programs_->attached()) return false;
  // Off and on again: a new filter goes to the head of the line. Nothing leaves meanwhile.
  shared_->unguard(netdev_.key());
  programs_->remove_filters();
  if (auto attached = programs_->attach(); !attached) return std::unexpected(attached.error());
  shared_->guard(netdev_.key(), dev_id_);
  return true;
}

void Attachment::set_versions(VersionSet versions) {
  if (programs_) programs_->set_versions(versions);
}

void Attachment::set_rotation(std::uint32_t rotation) {
  if (programs_) programs_->set_rotation(rotation);
}

DropCounts Attachment::drops() const { return programs_ ? programs_->drops() : DropCounts{}; }

}  // namespace psp::datapath
