// SPDX-License-Identifier: Apache-2.0
#include "daemon.hh"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>
#include <unordered_set>

#include <psp/crypto/aead.hh>
#include <psp/device/state_table.h>

#include "assoc_info.hh"
#include "leftover.hh"
#include "signals.hh"

namespace psp {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

constexpr auto kCheck = 1000ms;
// Looks at the devices because of what others do to them: not more often than this.
constexpr auto kCheckPause = 50ms;
constexpr auto kRest = 2ms;
// Sockets that are forgotten at one turn, of each second.
constexpr int kBurials = 65536;

std::uint64_t picoseconds() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return (static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u +
          static_cast<std::uint64_t>(now.tv_nsec)) *
         1000u;
}

// read_link_event takes one message off the socket: true if it is about this namespace. Nothing
// when there is none.
std::optional<bool> read_link_event(int fd) {
  char buffer[16384];
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  iovec part{buffer, sizeof buffer};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (::recvmsg(fd, &message, 0) < 0) {
    if (errno == ENOBUFS) return true;  // some were lost: they may have been
    return std::nullopt;
  }
  const cmsghdr* nsid = CMSG_FIRSTHDR(&message);  // only on those of other namespaces
  return nsid == nullptr || nsid->cmsg_type != NETLINK_LISTEN_ALL_NSID;
}

}  // namespace

Daemon::Daemon(const Options& options, Again again)
    : options_(options),
      again_(std::move(again)),
      secrets_(datapath::Secrets::random()),
      ivs_(picoseconds) {
  crypto::random_bytes({reinterpret_cast<std::uint8_t*>(&instance_), sizeof instance_});
}

Daemon::~Daemon() = default;

std::expected<std::unique_ptr<Daemon>, std::string> Daemon::start(const Options& options,
                                                                  Again again) {
  std::unique_ptr<Daemon> daemon(new Daemon(options, std::move(again)));
  if (auto up = daemon->bring_up(); !up) {
    (void)daemon->shut_down();  // it says itself what stays
    return std::unexpected(up.error());
  }
  return daemon;
}

std::expected<void, std::string> Daemon::watch() {
  for (const int signal : stop_signals())
    sources_.push_back(loop_.on_signal(signal, [this, signal] { on_signal(signal); }));
  closes_ = loop_.on_readable(destroyed_->fd(), [this] { on_destroyed(); });
  sources_.push_back(loop_.every(kCheck, [this] {
    bury();
    check_devices();
  }));
  auto forks = datapath::VmForkEvents::open();
  if (!forks) return std::unexpected(forks.error());
  vm_forks_ = std::move(*forks);
  sources_.push_back(loop_.on_readable(vm_forks_->fd(), [this] {
    if (vm_forks_->read()) on_vm_fork();
  }));
  const bool rotating = rotate_every(options_.rotate_interval);
  if (auto links = watch_links(); !links) return links;
  loop_.watchdog();
  if (rotating && loop_.complete()) return {};
  return std::unexpected("the event loop is out of descriptors or memory");
}

std::expected<void, std::string> Daemon::watch_links() {
  links_ = UniqueFd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = RTMGRP_LINK | RTMGRP_TC;  // and filters: ours must not be missing for long
  const int on = 1;                             // also of the namespaces with associated netdevs
  if (!links_ ||
      ::setsockopt(links_.get(), SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, &on, sizeof on) != 0 ||
      ::bind(links_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return std::unexpected(
        fmt::format("cannot hear of changes of network devices: {}", std::strerror(errno)));
  link_events_ = loop_.on_readable(links_.get(), [this] { on_links(); });
  check_later_ = loop_.every(kCheckPause, [this] { check_devices(); });
  check_later_.enable(false);
  rest_ = loop_.every(
      kRest, [this] { rest_.enable(!closes_.enable(true) || !link_events_.enable(true)); });
  rest_.enable(false);
  return {};
}

void Daemon::on_signal(int signal) {
  spdlog::info("caught {}", signal_name(signal));
  if (signal == SIGHUP) return reload();
  loop_.stop(0);
}

int Daemon::run() {
  if (const int error = ::sd_notify(0, "READY=1"); error < 0)
    spdlog::warn("systemd cannot be told that pspd is ready: {}", std::strerror(-error));
  spdlog::info("ready");
  const int wanted = loop_.run();
  ::sd_notify(0, "STOPPING=1");
  spdlog::info("stopping");
  const int code = shut_down();
  return wanted != 0 ? wanted : code;
}

datapath::HostDevice* Daemon::device_by_id(std::uint16_t id) {
  const auto found =
      std::ranges::find_if(devices_, [id](auto& device) { return device->id() == id; });
  return found == devices_.end() ? nullptr : found->get();
}

void Daemon::on_destroyed() {
  const auto gone = [this](const datapath::SecuredSocket& socket) { depart(socket.cookie()); };
  const auto heard = destroyed_->read(gone);
  if (heard == datapath::DestroyEvents::Heard::kLost) resynchronise();
  if (heard == datapath::DestroyEvents::Heard::kMore) rest(closes_);
}

// rest lets others have their turns: events of the host come before all of them, as fast as anybody
// likes to make them.
void Daemon::rest(EventLoop::Source& source) {
  source.enable(false);
  rest_.enable(true);
}

// on_vm_fork: all keys go, the Tx keys first, so that nothing is sealed with them again, not even
// the resets of the connections that end. Their peers see them end as if this host had lost its
// power.
void Daemon::on_vm_fork() {
  const auto dropped = core_->drop_keys();
  const auto ended =
      datapath::end_secured_sockets({programs_->assoc_map(), programs_->noted_map()}, *namespaces_);
  if (dropped && ended)
    return spdlog::warn(
        "this virtual machine was cloned or set back to a snapshot (vmgenid): all keys are new, {} "
        "secured connections aborted",
        ended->aborted.size());
  spdlog::error("this virtual machine was cloned or set back (vmgenid), and {}; stopping",
                dropped ? ended.error() : "the device keys cannot be replaced");
  loop_.stop(1);
}

void Daemon::depart(std::uint64_t cookie) {
  const device::Association* association = core_->find_association(cookie);
  if (association == nullptr) return;
  if (!association->tx_spi) return core_->release(cookie);
  core_->end(cookie);
  departed_.push_back({steady_clock::now() + kTimeWait, cookie});
}

// resynchronise finds the sockets whose end went unheard. One that is in no listing may have been
// disconnected: it has ended if its application has closed it.
void Daemon::resynchronise() {
  const auto sockets = all_sockets();
  if (!sockets) return;
  std::unordered_set<std::uint64_t> known;
  for (const auto& socket : *sockets) known.insert(socket.cookie());
  for (const Departed& departed : departed_) known.insert(departed.cookie);
  std::vector<std::uint64_t> gone;
  core_->for_each_association([&](const device::Association& association) {
    if (!known.contains(association.cookie) && sockets_->is_released(association.cookie))
      gone.push_back(association.cookie);
  });
  for (const std::uint64_t cookie : gone) depart(cookie);
}

void Daemon::bury() {
  for (int i = 0;
       i < kBurials && !departed_.empty() && departed_.front().until <= steady_clock::now(); i++) {
    core_->release(departed_.front().cookie);
    sockets_->forget(departed_.front().cookie);
    departed_.pop_front();
  }
  // Sockets of an earlier pspd, a few at each turn.
  for (std::size_t left = std::min<std::size_t>(unseen_.size(), 4096); left > 0; left--) {
    const std::uint64_t cookie = unseen_.front();
    unseen_.pop_front();
    if (sockets_->is_released(cookie))
      sockets_->forget(cookie);
    else
      unseen_.push_back(cookie);
  }
}

void Daemon::on_links() {
  // Whoever is root in a container can cause as many events as it likes: those wait for each other.
  bool ours = false;
  for (int burst = 0;; burst++) {
    const auto home = read_link_event(links_.get());
    if (!home) break;
    ours |= *home;
    if (burst == 256) {
      rest(link_events_);
      break;
    }
  }
  if (ours || steady_clock::now() - checked_ >= kCheckPause) return check_devices();
  check_later_.enable(true);
}

void Daemon::check_devices() {
  checked_ = steady_clock::now();
  check_later_.enable(false);
  const auto news = of_programs_.turn(
      checked_, [this] { return programs_->missing(); }, [this] { return programs_->put_back(); });
  if (news) spdlog::warn("{}", *news);
  check_namespaces();  // first: what follows leaves references to namespaces behind for a moment
  std::vector<std::uint16_t> gone;
  for (const auto& device : devices_)
    if (!device->main().refresh()) gone.push_back(device->id());
  for (const std::uint16_t id : gone) retire(id);
  for (const auto& device : devices_) {
    heal(device->main());
    if (const auto why = device->main().failed()) {
      spdlog::error("{}: connections through {} are blocked; stopping", *why,
                    device->netdev().name);
      return loop_.stop(1);
    }
  }
  check_associated();
  find_wanted();
}

void Daemon::heal(datapath::Attachment& attachment) {
  for (const std::string& news : attachment.heal(steady_clock::now())) spdlog::warn("{}", news);
}

// retire ends a device whose netdev has gone.
void Daemon::retire(std::uint16_t id) {
  const auto found =
      std::ranges::find_if(devices_, [id](const auto& device) { return device->id() == id; });
  if (found == devices_.end()) return;
  spdlog::warn("{} has gone, and its PSP device with it", (*found)->netdev().name);
  core_->remove_device(id);
  devices_.erase(found);
  for (Wanted& wanted : wanted_)
    if (wanted.device == id) wanted.device = 0;
}

// find_wanted gives a netdev of the options that has come, or come back, its PSP device: a new one.
// Where that cannot be, since another pspd has the netdev or takes something over, it tries again.
void Daemon::find_wanted() {
  for (Wanted& wanted : wanted_) {
    const auto look = [&]() -> datapath::Finding {
      if (wanted.device != 0 || ::if_nametoindex(wanted.name.c_str()) == 0) return std::nullopt;
      return wanted.name + " has no PSP device";
    };
    const auto give = [&]() -> std::expected<void, std::string> {
      const auto added = add_later(wanted.name);
      if (!added) return std::unexpected(added.error());
      wanted.device = *added;
      return {};
    };
    const auto news = wanted.upkeep.turn(steady_clock::now(), look, give);
    if (news && wanted.device == 0) spdlog::error("{}", *news);
  }
}

void Daemon::rotate() {
  for (const auto& device : devices_)
    if (auto rotated = core_->key_rotate(device->id()); !rotated)
      spdlog::error("{}: the device key cannot be rotated: {}", device->netdev().name,
                    rotated.error().text);
}

std::vector<AssocInfo> Daemon::associations() {
  std::vector<AssocInfo> all;
  const auto sockets = all_sockets();
  if (!sockets) return all;
  for (const auto& socket : *sockets) {
    if (socket.assoc.epoch != secrets_.epoch || socket.assoc.state == PSP_STATE_NONE) continue;
    AssocInfo info = assoc_info(socket);
    if (const auto* device = device_by_id(socket.assoc.dev_id)) info.ifname = device->netdev().name;
    if (const auto* association = core_->find_association(info.cookie))
      info.stale = association->stale;
    all.push_back(std::move(info));
  }
  return all;
}

std::vector<KeptPacket> Daemon::kept_packets() {
  std::vector<KeptPacket> all;
  for (const auto& device : devices_)
    for (device::LoggedPacket& packet : device->driver().packets())
      all.push_back({.dev_id = device->id(),
                     .number = packet.number,
                     .nanoseconds = packet.nanoseconds,
                     .transmit = packet.path == device::PacketPath::kTransmit,
                     .reason = packet.reason,
                     .length = packet.length,
                     .octets = std::move(packet.octets)});
  return all;
}

DaemonInfo Daemon::daemon_info() {
  DaemonInfo info;
  info.version = PSP_PROGRAM_VERSION;
  info.crypto_backend = backend_->description();
  info.pid = static_cast<std::uint32_t>(::getpid());
  info.instance = instance_;
  const datapath::DropCounts shared = programs_->drops();
  for (const auto& device : devices_) {
    DaemonInfo::Device& one = info.devices.emplace_back();
    one.id = device->id();
    one.ifname = device->netdev().name;
    one.tap = device->tap().name();
    one.mtu = device->netdev().mtu;
    one.spi_remaining = device->driver().spi_remaining();
    if (const auto found = core_->find_device(device->id())) one.generation = (*found)->generation;
    // The socket programs serve all devices; what is of them is shown with the first.
    datapath::DropCounts drops = device->drops();
    datapath::Condition condition = device->condition();
    if (device == devices_.front()) {
      for (std::size_t i = 0; i < drops.size(); i++) drops[i] += shared[i];
      condition.add(of_programs_.condition());
    }
    one.repairs = condition.repairs;
    one.trouble = condition.trouble;
    for (std::size_t i = 1; i < drops.size(); i++)
      if (drops[i] != 0) one.drops.emplace_back(name(static_cast<Drop>(i)), drops[i]);
  }
  return info;
}

}  // namespace psp
