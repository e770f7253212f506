// SPDX-License-Identifier: Apache-2.0
#include "daemon.hh"

#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <linux/rtnetlink.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <thread>
#include <unistd.h>
#include <unordered_set>

#include <psp/crypto/aead.hh>
#include <psp/device/state_table.h>

namespace psp {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

// FIN_WAIT2 without its full socket and TIME_WAIT last 60 seconds each in Linux.
constexpr auto kTimeWait = 125s;
constexpr auto kCheck = 1000ms;
// What is on its way to the wire when pspd stops: RSTs of the connections that it ends.
constexpr auto kDrain = 100ms;

std::uint64_t picoseconds() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return (static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u +
          static_cast<std::uint64_t>(now.tv_nsec)) *
         1000u;
}

// lock_netdev makes this process the only pspd of a netdev, by a name in the abstract namespace
// that goes with the process however it ends.
std::expected<UniqueFd, std::string> lock_netdev(const datapath::Netdev& netdev) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const std::string name = fmt::format("@softpsp/dev/{}", netdev.ifindex);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  name.copy(address.sun_path, name.size());
  address.sun_path[0] = '\0';
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) == 0) return fd;
  return std::unexpected(fmt::format("{} already has a pspd: stop that one first", netdev.name));
}

// read_ports reads net.ipv4.ip_local_port_range, from which source ports are taken.
void read_ports(datapath::TxOptions& tx) {
  std::ifstream file("/proc/sys/net/ipv4/ip_local_port_range");
  unsigned first = 0, last = 0;
  if (file >> first >> last && first > 0 && first < last && last <= 65535) {
    tx.port_first = static_cast<std::uint16_t>(first);
    tx.port_last = static_cast<std::uint16_t>(last);
  }
}

// take_over ends the connections that an earlier, killed pspd secured on a netdev: their keys died
// with it. Its programs still block them, so nothing leaves in clear meanwhile.
std::expected<void, std::string> take_over(const datapath::Netdev& netdev) {
  const auto leftover = datapath::find_leftover(netdev);
  if (!leftover || !leftover->assoc_map) return {};
  spdlog::warn("{}: an earlier pspd did not stop cleanly: aborting the connections it had secured",
               netdev.name);
  const auto left = datapath::end_secured_sockets(leftover->assoc_map.get());
  if (!left) return std::unexpected(left.error());
  if (*left == 0) return {};
  return std::unexpected(fmt::format(
      "{}: {} connections that an earlier pspd secured are still open and blocked, and this kernel "
      "cannot abort them (CONFIG_INET_DIAG_DESTROY): end their programs, then start again",
      netdev.name, *left));
}

const char* tcp_state_name(unsigned state) {
  static constexpr const char* names[] = {"?",          "established", "syn-sent",  "syn-recv",
                                          "fin-wait-1", "fin-wait-2",  "time-wait", "close",
                                          "close-wait", "last-ack",    "listen",    "closing"};
  return state < std::size(names) ? names[state] : "?";
}

std::string address_text(unsigned& family, const std::uint32_t* words) {
  char text[INET6_ADDRSTRLEN] = "";
  const auto* v6 = reinterpret_cast<const in6_addr*>(words);
  if (family == 6 && IN6_IS_ADDR_V4MAPPED(v6)) {
    ::inet_ntop(AF_INET, v6->s6_addr + 12, text, sizeof text);
  } else {
    ::inet_ntop(family == 4 ? AF_INET : AF_INET6, words, text, sizeof text);
  }
  return text;
}

AssocInfo assoc_info(const datapath::SecuredSocket& socket) {
  const psp_sock& assoc = socket.assoc;
  AssocInfo info;
  info.cookie = socket.cookie();
  info.dev_id = assoc.dev_id;
  info.family = socket.family;
  info.local_address = address_text(info.family, socket.id.idiag_src);
  info.peer_address = address_text(info.family, socket.id.idiag_dst);
  if (info.local_address.find(':') == std::string::npos) info.family = 4;
  info.local_port = ntohs(socket.id.idiag_sport);
  info.peer_port = ntohs(socket.id.idiag_dport);
  info.state = assoc.state;
  info.tcp_state = tcp_state_name(socket.tcp_state);
  info.version = to_version(assoc.version).value_or(Version::kAesGcm128);
  info.generation = assoc.generation;
  info.rx_spi = Spi{assoc.rx_spi};
  if (assoc.state >= PSP_STATE_TX) info.tx_spi = Spi{assoc.tx_spi};
  info.rx_packets = assoc.rx_packets;
  info.rx_bytes = assoc.rx_bytes;
  info.tx_packets = assoc.tx_packets;
  info.tx_bytes = assoc.tx_bytes;
  info.rx_drops = assoc.rx_drops;
  return info;
}

}  // namespace

Daemon::Daemon(const Options& options)
    : options_(options), secrets_(datapath::Secrets::random()), ivs_(picoseconds) {}

Daemon::~Daemon() = default;

std::expected<std::unique_ptr<Daemon>, std::string> Daemon::start(const Options& options) {
  std::unique_ptr<Daemon> daemon(new Daemon(options));
  if (auto up = daemon->bring_up(); !up) {
    daemon->shut_down();
    return std::unexpected(up.error());
  }
  return daemon;
}

std::expected<void, std::string> Daemon::bring_up() {
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
  device_options_.busy_poll_us = options_.busy_poll_us;
  device_options_.tx.udp_checksum = options_.udp_checksum;
  read_ports(device_options_.tx);
  crypto::random_bytes({reinterpret_cast<std::uint8_t*>(&device_options_.tx.port_key),
                        sizeof device_options_.tx.port_key});

  for (const std::string& name : options_.devices) {
    auto netdev = datapath::find_netdev(name);
    if (!netdev) return std::unexpected(netdev.error());
    auto lock = lock_netdev(*netdev);
    if (!lock) return std::unexpected(lock.error());
    locks_.push_back(std::move(*lock));
    if (auto done = take_over(*netdev); !done) return done;
  }
  auto programs = datapath::SocketPrograms::load(secrets_);
  if (!programs) return std::unexpected(programs.error());
  programs_ = std::move(*programs);
  if (auto attached = programs_->attach(); !attached) return attached;
  sockets_ = std::make_unique<datapath::KernelSockets>(secrets_, *programs_);
  core_ = std::make_unique<device::Core>(*sockets_);
  server_ = std::make_unique<netlink::Server>(*core_, static_cast<netlink::Inspector*>(this));
  core_->set_listener(server_.get());
  auto destroyed = datapath::DestroyEvents::open();
  if (!destroyed) return std::unexpected(destroyed.error());
  destroyed_ = std::move(*destroyed);
  for (const std::string& name : options_.devices)
    if (auto added = add_device(name); !added) return added;
  auto control = ControlSocket::listen(loop_, *server_, options_.socket);
  if (!control) return std::unexpected(control.error());
  control_ = std::move(*control);
  watch();
  return {};
}

std::expected<void, std::string> Daemon::add_device(const std::string& name) {
  auto device = datapath::HostDevice::attach({secrets_, *programs_, *sockets_, *core_}, name,
                                             device_options_);
  if (!device) return std::unexpected(device.error());
  for (const std::string& notice : (*device)->notices()) spdlog::warn("{}", notice);
  devices_.push_back(std::move(*device));
  const datapath::HostDevice& added = *devices_.back();
  if (options_.enable.bits != 0) (void)core_->set_versions(added.id(), options_.enable);
  spdlog::info("{}: PSP device {} with {}, {} worker{}, MTU {}", name, added.id(),
               backend_->description(), options_.workers, options_.workers == 1 ? "" : "s",
               added.netdev().mtu);
  if (options_.enable.bits == 0)
    spdlog::info("{}: receive is disabled: 'pspctl dev set {} psp-versions-ena all' enables it",
                 name, name);
  return {};
}

void Daemon::watch() {
  sources_.push_back(loop_.on_signal(SIGTERM, [this] { loop_.stop(0); }));
  sources_.push_back(loop_.on_signal(SIGINT, [this] { loop_.stop(0); }));
  sources_.push_back(loop_.on_readable(destroyed_->fd(), [this] { on_destroyed(); }));
  sources_.push_back(loop_.every(kCheck, [this] {
    bury();
    check_devices();
  }));
  if (options_.rotate_interval.count() > 0)
    sources_.push_back(loop_.every(options_.rotate_interval, [this] { rotate(); }));

  links_ = UniqueFd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = RTMGRP_LINK | RTMGRP_TC;  // and filters: ours must not be missing for long
  if (links_ && ::bind(links_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0)
    sources_.push_back(loop_.on_readable(links_.get(), [this] { on_links(); }));
  loop_.watchdog();
}

int Daemon::run() {
  ::sd_notify(0, "READY=1");
  spdlog::info("ready");
  const int wanted = loop_.run();
  ::sd_notify(0, "STOPPING=1");
  spdlog::info("stopping");
  const int code = shut_down();
  return wanted != 0 ? wanted : code;
}

int Daemon::shut_down() {
  control_.reset();
  sources_.clear();
  if (programs_) {  // also if the device has gone: these programs are all that holds its sockets
    const auto left = datapath::end_secured_sockets(programs_->assoc_map());
    if (!left || *left != 0) {
      spdlog::error(
          "{} secured connections cannot be aborted: pspd's programs stay in place and block "
          "them; 'pspd --cleanup' removes them later",
          left ? *left : 0);
      devices_.clear();
      return 1;
    }
    std::this_thread::sleep_for(kDrain);
  }
  for (auto& device : devices_) device->detach();
  devices_.clear();
  if (programs_) programs_->detach();
  return 0;
}

datapath::HostDevice* Daemon::device_by_id(std::uint16_t id) {
  const auto found =
      std::ranges::find_if(devices_, [id](auto& device) { return device->id() == id; });
  return found == devices_.end() ? nullptr : found->get();
}

void Daemon::on_destroyed() {
  if (!destroyed_->read([this](std::uint64_t cookie) { depart(cookie); })) resynchronise();
}

void Daemon::depart(std::uint64_t cookie) {
  const device::Association* association = core_->find_association(cookie);
  if (association == nullptr) return;
  if (association->tx_spi)
    departed_.push_back({steady_clock::now() + kTimeWait, cookie});
  else
    core_->release(cookie);
}

// resynchronise finds the sockets whose end went unheard.
void Daemon::resynchronise() {
  const auto sockets = datapath::secured_sockets(programs_->assoc_map());
  if (!sockets) return;
  std::unordered_set<std::uint64_t> known;
  for (const auto& socket : *sockets) known.insert(socket.cookie());
  for (const Departed& departed : departed_) known.insert(departed.cookie);
  std::vector<std::uint64_t> gone;
  core_->for_each_association([&](const device::Association& association) {
    if (!known.contains(association.cookie)) gone.push_back(association.cookie);
  });
  for (const std::uint64_t cookie : gone) depart(cookie);
}

void Daemon::bury() {
  while (!departed_.empty() && departed_.front().until <= steady_clock::now()) {
    core_->release(departed_.front().cookie);
    sockets_->forget(departed_.front().cookie);
    departed_.pop_front();
  }
}

void Daemon::on_links() {
  char buffer[16384];
  while (::recv(links_.get(), buffer, sizeof buffer, 0) > 0) {
  }
  check_devices();
}

void Daemon::check_devices() {
  std::erase_if(devices_, [this](auto& device) {
    if (!device->refresh()) {
      spdlog::warn("{} has gone, and its PSP device with it", device->netdev().name);
      return true;
    }
    if (device->failed()) {
      spdlog::error("{} has gone: connections through {} are blocked; stopping",
                    device->tap().name(), device->netdev().name);
      loop_.stop(1);
    } else if (auto healed = device->heal(); !healed)
      spdlog::error("{}", healed.error());
    else if (*healed)
      spdlog::warn("{}: pspd's tc filters were gone or not the first; they are back",
                   device->netdev().name);
    return false;
  });
}

void Daemon::rotate() {
  for (const auto& device : devices_)
    if (auto rotated = core_->key_rotate(device->id()); !rotated)
      spdlog::error("{}: the device key cannot be rotated: {}", device->netdev().name,
                    rotated.error().text);
}

std::vector<AssocInfo> Daemon::associations() {
  std::vector<AssocInfo> all;
  const auto sockets = datapath::secured_sockets(programs_->assoc_map());
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

DaemonInfo Daemon::daemon_info() {
  DaemonInfo info;
  info.version = PSP_PROGRAM_VERSION;
  info.crypto_backend = backend_->description();
  info.pid = static_cast<std::uint32_t>(::getpid());
  const datapath::DropCounts shared = programs_->drops();
  for (const auto& device : devices_) {
    DaemonInfo::Device& one = info.devices.emplace_back();
    one.id = device->id();
    one.ifname = device->netdev().name;
    one.tap = device->tap().name();
    one.mtu = device->netdev().mtu;
    one.spi_remaining = device->driver().spi_remaining();
    if (const auto found = core_->find_device(device->id())) one.generation = (*found)->generation;
    // The socket programs serve all devices; their counts are shown with the first.
    datapath::DropCounts drops = device->drops();
    if (device == devices_.front())
      for (std::size_t i = 0; i < drops.size(); i++) drops[i] += shared[i];
    for (std::size_t i = 1; i < drops.size(); i++)
      if (drops[i] != 0) one.drops.emplace_back(name(static_cast<Drop>(i)), drops[i]);
  }
  return info;
}

int clean_up(const Options& options) {
  int code = 0;
  for (const std::string& name : options.devices) {
    const auto netdev = datapath::find_netdev(name);
    const auto lock = netdev ? lock_netdev(*netdev) : std::unexpected(netdev.error());
    if (!lock) {
      spdlog::error("{}", lock.error());
      code = 1;
      continue;
    }
    const auto leftover = datapath::find_leftover(*netdev);
    if (!leftover) {
      spdlog::info("{}: nothing left of an earlier pspd", name);
      continue;
    }
    if (auto done = take_over(*netdev); !done) {
      spdlog::error("{}", done.error());
      code = 1;
      continue;
    }
    if (leftover->restore & PSP_RESTORE_UDP_GRO_FORWARDING)
      (void)datapath::set_feature(name, "rx-udp-gro-forwarding", false);
    datapath::remove_leftover(*netdev, *leftover, true);
    spdlog::info("{}: removed what an earlier pspd left", name);
  }
  for (const auto& orphan : datapath::find_orphans()) {
    (void)datapath::end_secured_sockets(orphan.assoc_map.get());
    datapath::remove_orphan(orphan);
    spdlog::info("removed the socket programs of a pspd that is no more");
  }
  return code;
}

}  // namespace psp
