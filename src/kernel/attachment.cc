// SPDX-License-Identifier: Apache-2.0
//
// The order in which an attachment comes and goes. Each step leaves sockets silent, never in clear:
// the TAP and the workers first, then the programs, then the note that lets sockets send; back the
// other way. What a crash would leave is noted before it is made.
//
// Threading: see attachment.hh.
#include "attachment.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <net/if.h>
#include <tuple>
#include <utility>

#include "base/counted.hh"

#include "leftover.hh"

namespace psp::kernel {
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
  datapath::TxOptions tx = options.tx;
  tx.mtu = netdev.mtu;
  tx.uso = attachment->tap_.has_uso();
  if (!attachment->tap_.notice().empty()) attachment->notices_.push_back(attachment->tap_.notice());
  for (unsigned number = 0; number < attachment->tap_.queues(); number++) {
    datapath::WorkerOptions worker{netdev.name, number, options.busy_poll_us,
                                   {},          tx,     options.peers};
    if (!options.cpus.empty()) worker.cpu = options.cpus[number % options.cpus.size()];
    auto started =
        datapath::Worker::start(attachment->tap_.fd(number), driver.make_engine(), worker);
    if (!started) return std::unexpected(fmt::format("{}: {}", netdev.name, started.error()));
    attachment->workers_.push_back(std::move(*started));
  }
  return attachment;
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
  if (netdev_.port_of != 0) notices_.push_back(whose_port());
  if (!set_versions(versions) || !programs_->set_rotation(rotation) ||
      !programs_->set_restore(*restore))
    return std::unexpected(netdev_.name + ": the netdev programs cannot be configured");
  shared_ = &shared;
  dev_id_ = dev_id;
  if (!shared_->note(netdev_.key())) return not_noted();
  placed_ = true;
  if (auto attached = programs_->attach(); !attached) return attached;
  if (!programs_->notice().empty()) notices_.push_back(programs_->notice());
  if (auto up = tap_.bring_up(); !up)
    return std::unexpected(fmt::format("{}: {}", netdev_.name, up.error().text));
  if (auto tuned = tune(); !tuned) return tuned;
  return let_send();  // last
}

std::unexpected<std::string> Attachment::not_noted() const {
  const int error = errno;
  return std::unexpected(fmt::format(
      "{}: {}", netdev_.name,
      error == E2BIG ? "there are too many netdevs with a PSP device" : std::strerror(error)));
}

std::expected<void, std::string> Attachment::let_send() const {
  if (shared_->remember(netdev_.netns) &&
      shared_->guard(netdev_.key(), dev_id_, programs_->first_programs()))
    return {};
  return not_noted();
}

// tune notes first what is to be put back.
std::expected<void, std::string> Attachment::tune() {
  const auto slow = [this](const std::string& why) {
    tuned_ = true;  // as far as it goes
    notices_.push_back(why + ": received packets may come one by one, which is slow");
    return std::expected<void, std::string>{};
  };
  const auto was = has_feature(netdev_.name, kUdpGroForwarding);
  if (!was) return slow(was.error());
  tuned_ = *was;
  if (tuned_) return {};
  const std::uint32_t restore = programs_->restore();
  if (!programs_->set_restore(restore | PSP_RESTORE_UDP_GRO_FORWARDING))
    return std::unexpected(netdev_.name + ": cannot note which of its settings to put back");
  if (const auto done = set_feature(netdev_.name, kUdpGroForwarding, true); !done)
    return slow(done.error());
  tuned_ = true;
  return {};
}

void Attachment::silence() {
  if (!placed_) return;
  // Without memory for the note nothing may be left of it that lets sockets send.
  if (!shared_->note(netdev_.key()) && !shared_->note(netdev_.key()))
    shared_->unguard(netdev_.key());
}

std::expected<void, std::string> Attachment::detach() {
  if (!placed_) return {};
  silence();  // first: it needs no namespace, and whatever comes then nothing is sent
  const InNetns inside(netns_);
  if (!inside.entered()) return std::unexpected(netdev_.name + ": its namespace cannot be entered");
  const auto there = look_up(netdev_.ifindex);
  if (!there) return std::unexpected(there.error());
  tuned_ = false;
  if (*there)
    if (auto done = restore_netdev(**there, programs_->restore()); !done) return done;
  shared_->unguard(netdev_.key());
  placed_ = false;
  return {};
}

std::expected<void, std::string> Attachment::resume() {
  placed_ = true;  // some may be there, and repair brings the others
  const InNetns inside(netns_);
  if (!inside.entered()) return std::unexpected(netdev_.name + ": its namespace cannot be entered");
  if (!shared_->note(netdev_.key())) return not_noted();
  return put_back();
}

bool Attachment::refresh() {
  const InNetns inside(netns_);
  if (!inside.entered()) return true;
  const auto found = look_up(netdev_.ifindex);
  if (!found) return true;
  if (!*found) return false;
  const Netdev& now = **found;
  netdev_.name = now.name;
  port_changed_ |= std::exchange(netdev_.port_of, now.port_of) != now.port_of;
  // What fails here is tried again.
  if (!set_versions_of_programs()) return true;
  if (now.mac != netdev_.mac && !programs_->set_mac(now.mac)) return true;
  if (now.mtu != netdev_.mtu)
    for (auto& worker : workers_) worker->set_mtu(now.mtu);
  netdev_ = now;
  return true;
}

bool Attachment::has_failed_worker() const {
  return std::ranges::any_of(workers_, [](const auto& worker) { return worker->failed(); });
}

std::optional<std::string> Attachment::failed() const {
  if (has_failed_worker()) return tap_.name() + " has gone";
  if (!netdev_.unfit.empty()) return netdev_.unfit;
  const InNetns inside(netns_);
  const auto queues = inside.entered() ? tap_queues(tap_.ifindex()) : std::nullopt;
  if (queues && *queues != tap_.queues()) return "somebody else has attached to " + tap_.name();
  return std::nullopt;
}

// read_errors says, now and then, that packets may have been lost between the TAP and its workers.
std::optional<std::string> Attachment::read_errors(std::chrono::steady_clock::time_point now) {
  std::uint64_t errors = 0;
  int last = 0;
  for (const auto& worker : workers_) {
    const datapath::WorkerStats stats = worker->stats();
    errors += stats.read_errors;
    if (stats.read_errors != 0) last = stats.last_read_error;
  }
  if (errors == told_read_errors_ || now < tell_read_errors_) return std::nullopt;
  tell_read_errors_ = now + std::chrono::seconds(30);
  return fmt::format("{}: {} of {} failed: {}", netdev_.name,
                     counted(errors - std::exchange(told_read_errors_, errors), "read"),
                     tap_.name(), std::strerror(last));
}

// missing says which of the programs and the notes that let sockets send are not as they were.
Finding Attachment::missing() const {
  auto programs = programs_->missing();
  if (!programs || *programs) return programs;
  for (const auto& [key, dev_id, first] :
       {std::tuple(netdev_.key(), dev_id_, programs_->first_programs()),
        std::tuple(device::NetdevKey{netdev_.netns, 0}, std::uint16_t{0}, FirstPrograms{})}) {
    const auto noted = shared_->guards(key, dev_id, first);
    if (!noted) return std::unexpected(noted.error());
    if (!*noted) return "the note that lets its secured sockets send was changed";
  }
  if (!tuned_) return "its settings are as they were before";
  return std::nullopt;
}

std::expected<void, std::string> Attachment::put_back() {
  if (auto attached = programs_->attach(); !attached) return attached;
  if (!tuned_)
    if (auto tuned = tune(); !tuned) return tuned;
  return let_send();
}

std::vector<std::string> Attachment::repair(std::chrono::steady_clock::time_point now) {
  const InNetns inside(netns_);
  if (!inside.entered() || has_failed_worker()) return {};
  std::vector<std::string> news = take_notices();
  if (auto errors = read_errors(now)) news.push_back(std::move(*errors));
  if (auto port = port_news(now)) news.push_back(std::move(*port));
  const auto look_after = [&](Upkeep& upkeep, const Upkeep::Look& look,
                              const Upkeep::PutBack& put_back) {
    if (const auto one = upkeep.turn(now, look, put_back))
      news.push_back(fmt::format("{}: {}", netdev_.name, *one));
  };
  // The TAP first: one that was moved has lost its programs. Sockets send nothing meanwhile: they
  // see for themselves that psp_egress is not there.
  look_after(
      of_tap_, [this] { return tap_.changed(); }, [this] { return tap_.put_back(); });
  look_after(
      of_programs_, [this] { return missing(); }, [this] { return put_back(); });
  return news;
}

Condition Attachment::condition() const {
  Condition all = of_tap_.condition();
  all.add(of_programs_.condition());
  return all;
}

bool Attachment::set_versions(VersionSet versions) {
  versions_ = versions;
  return set_versions_of_programs();
}

bool Attachment::set_versions_of_programs() {
  return !programs_ || programs_->set_versions(netdev_.port_of == 0 ? versions_ : VersionSet{});
}

std::string Attachment::whose_port() const {
  if (netdev_.port_of == 0)
    return netdev_.name + " is a port of no other netdev any more, and takes PSP packets again";
  char master[IF_NAMESIZE] = "";
  const bool named = ::if_indextoname(netdev_.port_of, master) != nullptr;
  return fmt::format(
      "{} is a port of {}: PSP packets that come by it are taken there, if that netdev has the "
      "device (pspctl dev assoc, or pspd --dev)",
      netdev_.name, named ? master : "another netdev");
}

// Root of a container can change that without end.
std::optional<std::string> Attachment::port_news(std::chrono::steady_clock::time_point now) {
  constexpr std::chrono::seconds kPause{30};
  if (!port_changed_ || now < tell_port_) return std::nullopt;
  tell_port_ = now + kPause;
  port_changed_ = false;
  return whose_port();
}

bool Attachment::set_rotation(std::uint32_t rotation) {
  return !programs_ || programs_->set_rotation(rotation);
}

DropCounts Attachment::drops() const { return programs_ ? programs_->drops() : DropCounts{}; }

}  // namespace psp::kernel
