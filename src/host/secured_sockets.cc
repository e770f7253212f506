// SPDX-License-Identifier: Apache-2.0
//
// The order of attach is what keeps a dead pspd's connections silent: they are aborted while its
// programs block them; ours take its maps on, so that what cannot be found stays blocked; then its
// own programs go.
#include "secured_sockets.hh"

#include <fmt/format.h>

#include "kernel/host_lock.hh"

namespace psp::host {

std::expected<std::unique_ptr<SecuredSockets>, std::string> SecuredSockets::open(const Log& log) {
  kernel::Secrets secrets = kernel::Secrets::random();
  auto namespaces = kernel::NetnsTable::open();
  if (!namespaces) return std::unexpected(namespaces.error());
  auto alive = kernel::lock_epoch(secrets.epoch);
  if (!alive) return std::unexpected(alive.error());
  return std::unique_ptr<SecuredSockets>(
      new SecuredSockets(secrets, std::move(*namespaces), std::move(*alive), log));
}

std::expected<void, std::string> SecuredSockets::attach(const Settings& settings,
                                                        std::span<const kernel::Netdev> netdevs) {
  std::vector<device::NetdevKey> keys;
  for (const kernel::Netdev& netdev : netdevs) keys.push_back(netdev.key());
  const auto alone = kernel::lock_takeover(true);
  if (!alone) return std::unexpected(alone.error());
  const auto earlier = take_over(netdevs, log_);
  if (!earlier) return std::unexpected(earlier.error());
  // The maps that a living pspd has taken on are its own.
  const auto first = std::ranges::find_if_not(
      *earlier, [](const Taken& taken) { return taken.leftover.inherited; });
  const bool found = first != earlier->end();
  auto programs = kernel::SocketPrograms::load(secrets_, settings.max_connections,
                                               found ? &first->leftover.maps : nullptr);
  if (!programs) return std::unexpected(programs.error());
  programs_ = std::move(*programs);
  const kernel::Leftover* left =
      found && programs_->inherited() ? &first->leftover : nullptr;  // what it inherits
  if (auto attached = programs_->attach(namespaces_of(left)); !attached) return attached;
  for (const Taken& taken : *earlier) {
    // More than one may have had these maps: a pspd that died before those it took over were gone.
    const bool inherited = left != nullptr && taken.leftover.assoc_map_id == left->assoc_map_id;
    if (auto gone = let_go(taken, keys, inherited, log_); !gone) return gone;
  }
  if (programs_->inherited())
    if (auto done = inherit(); !done) return done;
  operations_.emplace(secrets_, *programs_, namespaces_);
  operations_->set_any_state(settings.compat < device::Compat::kNetNext);
  return {};
}

// namespaces_of are those where there may be secured sockets of this pspd, or of one that it
// inherits from.
std::vector<std::uint64_t> SecuredSockets::namespaces_of(const kernel::Leftover* inherited) const {
  std::vector<std::uint64_t> all{namespaces_.home().cookie()};
  if (inherited != nullptr)
    for (const device::NetdevKey key : inherited->netdevs) all.push_back(key.netns);
  return all;
}

// inherit notes the sockets of an earlier pspd. Those that are closed go at the first looks:
// without their keys nothing of theirs can be sealed, and their TIME_WAITs would keep new
// connections with the same ports from beginning.
std::expected<void, std::string> SecuredSockets::inherit() {
  const auto noted = kernel::noted_sockets(programs_->maps().noted);
  if (!noted) return std::unexpected(noted.error());
  for (const kernel::Noted& socket : *noted) inherited_.push_back(socket.cookie);
  return {};
}

std::expected<kernel::Ended, std::string> SecuredSockets::end(const kernel::Which& which) const {
  constexpr int kTries = 3;
  kernel::Ended ended;
  auto done = kernel::end_secured_sockets(maps(), namespaces_, which, ended);
  for (int i = 1; i < kTries && !done; i++)
    done = kernel::end_secured_sockets(maps(), namespaces_, which, ended);
  if (!done) return std::unexpected(done.error());
  return ended;
}

std::expected<std::size_t, std::string> SecuredSockets::end_all() const {
  const auto ended = end();
  if (!ended) return std::unexpected(ended.error());
  const auto noted = kernel::noted_sockets(programs_->maps().noted);
  if (!noted) return std::unexpected(noted.error());
  return ended->left + kernel::count_unseen(*noted, ended->aborted);
}

std::expected<void, std::string> SecuredSockets::clear_netdevs() const {
  const auto left = kernel::left_by_itself(programs_->maps().assoc, programs_->maps().guard);
  if (!left) return std::unexpected(left.error());
  return left->netdevs.empty() ? std::expected<void, std::string>()
                               : remove_from_netdevs(*left, {});
}

std::expected<void, std::string> SecuredSockets::detach() {
  std::string why;
  if (const auto done = programs_->detach(); !done) {
    why = done.error();
  } else {
    const auto left = end_all();
    if (left && *left == 0) return {};
    why = left ? "a secured socket has begun another connection, and cannot be aborted"
               : left.error();
  }
  const auto back = programs_->put_back();
  return std::unexpected(
      fmt::format("{}: the socket programs {}", why,
                  back ? "stay in place" : "cannot be put back in place: " + back.error()));
}

std::optional<std::string> SecuredSockets::look_after(std::chrono::steady_clock::time_point now) {
  return upkeep_.turn(
      now, [this] { return programs_->missing(); }, [this] { return programs_->put_back(); });
}

bool SecuredSockets::is_deserted(const kernel::Netns& netns, std::size_t ours) const {
  const auto seen = operations_->view(netns.socket());
  if (!seen || seen->netns_references == 0) return false;  // not known
  return seen->netns_references <= ours;
}

void SecuredSockets::leave(std::uint64_t netns) {
  programs_->forget(netns);
  namespaces_.remove(netns);
}

}  // namespace psp::host
