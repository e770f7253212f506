// SPDX-License-Identifier: Apache-2.0
#include "attachment.hh"

#include <algorithm>
#include <fmt/format.h>
#include <utility>

#include "leftover.hh"

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
    WorkerOptions worker{netdev.name, number, options.busy_poll_us, {}, tx, options.peers};
    if (!options.cpus.empty()) worker.cpu = options.cpus[number % options.cpus.size()];
    auto started = Worker::start(attachment->tap_.fd(number), driver.make_engine(), worker);
    if (!started) return std::unexpected(fmt::format("{}: {}", netdev.name, started.error()));
    attachment->workers_.push_back(std::move(*started));
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
  const auto restore = read_restore(netdev_);
  if (!restore) return std::unexpected(restore.error());
  Secrets own = secrets;
  own.mark = Secrets::random().mark;  // root of that namespace can learn it
  auto programs = NetdevPrograms::load(own, shared, netdev_, tap_.ifindex(), dev_id);
  if (!programs) return std::unexpected(programs.error());
  programs_ = std::move(*programs);
  if (!programs_->set_versions(versions) || !programs_->set_rotation(rotation) ||
      !programs_->set_restore(*restore))
    return std::unexpected(netdev_.name + ": the netdev programs cannot be configured");
  placed_ = true;
  if (auto attached = programs_->attach(); !attached) return attached;
  if (!programs_->notice().empty()) notices_.push_back(programs_->notice());
  if (auto up = tap_.bring_up(); !up)
    return std::unexpected(fmt::format("{}: {}", netdev_.name, up.error().text));
  if (auto tuned = tune(); !tuned) return tuned;
  // Last: now sockets may send.
  shared_ = &shared;
  if (shared.remember(netdev_.netns) && shared.guard(netdev_.key(), dev_id, programs_->egress_id()))
    return {};
  return std::unexpected(netdev_.name + ": there are too many netdevs with a PSP device");
}

// tune notes first what is to be put back.
std::expected<void, std::string> Attachment::tune() {
  const auto slow = [this](const std::string& why) {
    notices_.push_back(why + ": received packets may come one by one, which is slow");
    return std::expected<void, std::string>{};
  };
  const auto was = has_feature(netdev_.name, kUdpGroForwarding);
  if (!was) return slow(was.error());
  if (*was) return {};
  const std::uint32_t restore = programs_->restore();
  if (!programs_->set_restore(restore | PSP_RESTORE_UDP_GRO_FORWARDING))
    return std::unexpected(netdev_.name + ": cannot note which of its settings to put back");
  const auto done = set_feature(netdev_.name, kUdpGroForwarding, true);
  return done ? std::expected<void, std::string>{} : slow(done.error());
}

std::expected<void, std::string> Attachment::detach() {
  if (!placed_) return {};
  const InNetns inside(netns_);
  if (!inside.entered()) return std::unexpected(netdev_.name + ": its namespace cannot be entered");
  if (shared_ != nullptr) shared_->unguard(netdev_.key());
  return restore_netdev(netdev_, programs_->restore());
}

bool Attachment::refresh() {
  const InNetns inside(netns_);
  if (!inside.entered()) return false;
  auto now = find_netdev(netdev_.ifindex);
  if (!now) return false;
  if (now->mac != netdev_.mac && !programs_->set_mac(now->mac)) return false;
  if (now->mtu != netdev_.mtu)
    for (auto& worker : workers_) worker->set_mtu(now->mtu);
  netdev_ = std::move(*now);
  return true;
}

std::optional<std::string> Attachment::failed() const {
  const InNetns inside(netns_);
  const auto queues = inside.entered() ? tap_queues(tap_.ifindex()) : std::nullopt;
  if (!queues || std::ranges::any_of(workers_, [](const auto& worker) { return worker->failed(); }))
    return tap_.name() + " has gone";
  if (*queues != tap_.queues()) return "somebody else has attached to " + tap_.name();
  return std::nullopt;
}

std::optional<std::string> Attachment::heal(std::chrono::steady_clock::time_point now) {
  const InNetns inside(netns_);
  if (!inside.entered() || now < heal_after_) return std::nullopt;
  if (programs_->attached()) {
    // Somebody who insists may come again at once: only what lasts longer than the pause is peace.
    if (now >= heal_after_ + heal_pause_) heal_pause_ = kFirstPause;
    if (!std::exchange(broken_, false)) return std::nullopt;
    return fmt::format("{}: pspd's programs are in place again", netdev_.name);
  }
  // Sockets send nothing meanwhile: they see for themselves that psp_egress is not there.
  const auto attached = programs_->attach();
  heal_after_ = now + heal_pause_;
  heal_pause_ = std::min(heal_pause_ * 2, kLongestPause);
  const bool was_broken = std::exchange(broken_, !attached);
  if (was_broken && !attached) return std::nullopt;
  if (attached)
    return fmt::format("{}: pspd's programs were gone or not the first; they are back",
                       netdev_.name);
  return fmt::format(
      "{}: pspd's programs are gone or not the first, and secured sockets blocked: {}",
      netdev_.name, attached.error());
}

bool Attachment::set_versions(VersionSet versions) {
  return !programs_ || programs_->set_versions(versions);
}

bool Attachment::set_rotation(std::uint32_t rotation) {
  return !programs_ || programs_->set_rotation(rotation);
}

DropCounts Attachment::drops() const { return programs_ ? programs_->drops() : DropCounts{}; }

}  // namespace psp::datapath
