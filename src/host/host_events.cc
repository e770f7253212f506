// SPDX-License-Identifier: Apache-2.0
//
// What a host does while it runs: it looks after what it has, at regular times and when others have
// changed something, lets go of what has ended, and rotates keys.
//
// Whoever is root in a container can cause events without end: those make it look at most once in
// kLookPause, and the more there is to look at the longer others have in between. A change at home
// is looked at sooner, for packets are cut by what was seen last; but not at once each time, since
// his end of a veth has another at home, which tells of it. What cannot be set right ends the loop
// with code 1; Host's stop() does the rest.
//
// Threading: the control thread; all of this is called by the loop.
#include "base/counted.hh"

#include "host.hh"

namespace psp::host {
namespace {

using namespace std::chrono_literals;

constexpr auto kRegularly = 1000ms;
// Looks at the devices because of what others do to them: not more often than this.
constexpr auto kLookPause = 50ms;
constexpr auto kHomePause = 5ms;
constexpr auto kListsTurn = 5ms;
constexpr auto kExpiryTurn = 5ms;
constexpr auto kLookTurn = 5ms;

}  // namespace

std::expected<void, std::string> Host::watch() {
  regularly_ = loop_.every(kRegularly, [this] {
    departures_->look_again();
    expire();
    look_after();
    recount_->begin();
    if (const auto news = sockets_->operations().room().news(loop_.now())) log_.warn("{}", *news);
  });
  soon_ = loop_.every(kLookPause, [this] { look_when_due(); });
  soon_.enable(false);
  soon_at_home_ = loop_.every(kHomePause, [this] { look_when_due(); });
  soon_at_home_.enable(false);
  lists_turn_ = loop_.every(kListsTurn, [this] {
    const bool making = lists_->turn(loop_.now()), counting = recount_->turn(loop_.now());
    if (!making && !counting) lists_turn_.enable(false);
  });
  lists_turn_.enable(false);
  look_turn_ = loop_.every(kLookTurn, [this] { look_on_when_due(); });
  look_turn_.enable(false);
  expiry_turn_ = loop_.every(kExpiryTurn, [this] { expire(); });
  expiry_turn_.enable(false);
  if (auto watching = events_->watch(); !watching) return watching;
  const bool rotating = rotate_every(settings_.rotate_interval);
  if (rotating && loop_.complete()) return {};
  return std::unexpected("the event loop is out of descriptors or memory");
}

// expire goes on in turns for as long as there is something to let go of.
void Host::expire() { expiry_turn_.enable(departures_->expire(loop_.now())); }

Events::Calls Host::calls() {
  return {.socket_gone = [this](std::uint64_t cookie) { recount_->gone(cookie, loop_.now()); },
          .sockets_missed = [this] { recount_->missed(); },
          .netdevs_changed = [this](bool at_home) { on_netdevs_changed(at_home); },
          .vm_forked = [this] { on_vm_fork(); }};
}

// rotate_every: false, and the interval is what it was, if there is no memory for a timer.
bool Host::rotate_every(std::chrono::seconds interval) {
  if (interval.count() == 0) {
    rotation_ = {};
    return true;
  }
  auto timer = loop_.try_every(interval, [this] { devices_->rotate(); });
  if (timer) rotation_ = std::move(*timer);
  return timer.has_value();
}

// on_vm_fork: all keys go, the Tx keys first, so that nothing is sealed with them again, not even
// the resets of the connections that end. Their peers see them end as if this host had lost its
// power.
void Host::on_vm_fork() {
  const auto drop_keys = [this] {
    try {
      return devices_->core().drop_keys().has_value();
    } catch (const std::bad_alloc&) {
      return false;
    }
  };
  if (!drop_keys()) {
    loop_.stop(1);  // first: nothing may come between
    return log_.error(
        "this virtual machine was cloned or set back (vmgenid), and the device keys cannot be "
        "replaced; stopping");
  }
  const auto aborted = end_old_connections();
  if (aborted)
    return log_.warn(
        "this virtual machine was cloned or set back to a snapshot (vmgenid): all keys are new, {} "
        "secured connections aborted",
        *aborted);
  log_.error(
      "this virtual machine was cloned or set back to a snapshot (vmgenid): all keys are new; "
      "secured connections are silent, and will be aborted later: {}",
      aborted.error());
}

// end_old_connections aborts those whose keys were dropped, and none that has begun since. Returns
// how many. Errors: a sentence; it is tried again.
std::expected<std::size_t, std::string> Host::end_old_connections() {
  if (!old_connections_) old_connections_.emplace();
  const auto ended = sockets_->end([this](const kernel::SecuredSocket& socket) {
    const device::Association* known = devices_->core().associations().find(socket.cookie());
    return !sockets_->is_own(socket) || known == nullptr || known->revoked;
  });
  old_connections_->tried(loop_.now());
  if (!ended) return std::unexpected(ended.error());
  if (ended->left != 0)
    return std::unexpected(fmt::format("{} of them cannot be aborted", ended->left));
  old_connections_.reset();
  return ended->aborted.size();
}

void Host::on_netdevs_changed(bool at_home) {
  const std::chrono::nanoseconds pause = at_home ? kHomePause : kLookPause;
  if (loop_.now() - looked_after_ >= pause && looks_.due(loop_.now())) return look_after();
  (at_home ? soon_at_home_ : soon_).enable(true);
}

// look_when_due: a timer that is too early comes again.
void Host::look_when_due() {
  if (looks_.due(loop_.now())) look_after();
}

void Host::look_after() {
  const auto start = loop_.now();
  look_at_all(start);
  looked_after_ = loop_.now();
  looks_.ran(start, looked_after_ - start);
}

void Host::look_at_all(std::chrono::steady_clock::time_point now) {
  soon_.enable(false);
  soon_at_home_.enable(false);
  if (const auto news = sockets_->look_after(now)) log_.warn("{}", *news);
  // First: what follows leaves references to namespaces behind for a moment.
  leave_deserted_namespaces();
  if (old_connections_ && old_connections_->due(now))
    if (const auto aborted = end_old_connections(); aborted)
      log_.warn("{} secured connections aborted that had lost their keys", *aborted);
  devices_->look_after(now);
  look_on();
}

// look_on goes on in turns for as long as there are netdevs to be looked at. Where memory lacks,
// the next regular look goes on.
void Host::look_on() {
  look_turn_.enable(false);
  look_turn_.enable(devices_->look_on(loop_.now()));
}

void Host::look_on_when_due() {
  const auto start = loop_.now();
  if (!looks_.due(start)) return;
  look_on();
  looks_.ran(start, loop_.now() - start);
}

// leave_deserted_namespaces notices where nobody but us keeps a namespace alive: our sockets and
// TAPs do. It ends with that, and the keys of what was there go at once.
void Host::leave_deserted_namespaces() {
  std::vector<std::uint64_t> deserted;
  const std::uint64_t home = sockets_->namespaces().home().cookie();
  sockets_->namespaces().for_each([&](const kernel::Netns& netns) {
    const std::uint64_t cookie = netns.cookie();
    const std::size_t ours = 1 + listeners_->references(cookie) + devices_->references(cookie);
    if (cookie != home && sockets_->is_deserted(netns, ours)) deserted.push_back(cookie);
  });
  for (const std::uint64_t netns : deserted) {
    devices_->leave(netns);
    departures_->release_all(netns, loop_.now());
    listeners_->leave(netns);
    sockets_->leave(netns);
  }
  if (!deserted.empty()) expiry_turn_.enable(true);
}

}  // namespace psp::host
