// SPDX-License-Identifier: Apache-2.0
//
// Creation of the TAP by ioctl. It is a pipe between tc programs and pspd, not an interface that
// the host talks through: no addresses, no ARP, no IPv6 of its own. It is made where nobody else is
// and given an owner there, since any user may attach to a TAP without one; strangers are counted
// at the end all the same. What others change of it afterwards is seen and put back (upkeep.hh):
// all secured traffic goes through it.
#include "tap.hh"

#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fstream>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <system_error>
#include <thread>
#include <unistd.h>

#include "base/ifreq.hh"
#include "crypto/aead.hh"
#include "datapath/virtio.hh"

#include "netns.hh"

namespace psp::kernel {
namespace {

// kQueueLength: TAPs orphan packets, so TCP small queues do not push back and many streams fill the
// queue with one window each. The default of 1000 lost packets with 32 streams.
constexpr int kQueueLength = 8192;
constexpr int kMaxMtu = 65521;  // the most a TAP takes: 65535 less the Ethernet header
constexpr const char* kOwnNetns = "/proc/thread-self/ns/net";

std::unexpected<TapError> fail(int sys_errno, std::string text) {
  return std::unexpected(TapError{sys_errno, std::move(text)});
}

std::unexpected<TapError> fail_ioctl(const char* what) {
  const int sys_errno = errno;
  return fail(sys_errno, fmt::format("TAP: {} failed: {}", what, std::strerror(sys_errno)));
}

std::string why_no_tun(int sys_errno) {
  switch (sys_errno) {
    case ENOENT:
    case ENODEV:
      return "/dev/net/tun is missing: load the kernel module (modprobe tun) or, in a container, "
             "pass the device in";
    case EACCES:
    case EPERM:
      return "/dev/net/tun may not be opened: run as root or with CAP_NET_ADMIN";
    default:
      return fmt::format("/dev/net/tun cannot be opened: {}", std::strerror(sys_errno));
  }
}

// silence keeps the kernel from sending neighbour discovery of its own into the TAP. Without IPv6
// in the kernel there is nothing to keep quiet. False if it cannot: psp_tap_egress drops what is
// sent there, but all the same somebody ought to know.
[[nodiscard]] bool silence(const std::string& name) {
  const std::string settings = "/proc/sys/net/ipv6/conf/" + name;
  if (::access(settings.c_str(), F_OK) != 0 && errno == ENOENT) return true;
  for (const char* setting : {"/disable_ipv6", "/addr_gen_mode"}) {
    std::ofstream file(settings + setting);
    if (!(file << "1\n" << std::flush)) return false;
  }
  return true;
}

// new_netns is a network namespace of nobody's; nothing if there may be none.
UniqueFd new_netns() {
  UniqueFd made;
  try {
    std::thread([&made] {
      if (::unshare(CLONE_NEWNET) == 0) made.reset(::open(kOwnNetns, O_RDONLY | O_CLOEXEC));
    }).join();
  } catch (const std::system_error&) {
    return {};  // no thread
  }
  return made;
}

}  // namespace

std::expected<Tap, TapError> Tap::open(std::string_view pattern, unsigned queues) {
  if (pattern.empty() || pattern.size() >= IFNAMSIZ)
    return fail(EINVAL, "TAP: an interface name has 1 to 15 characters");
  if (queues == 0) return fail(EINVAL, "TAP: at least one queue is needed");
  Tap tap;
  std::array<std::uint8_t, 5> unknown;
  crypto::random_bytes(unknown);
  tap.name_ = fmt::format("psp-{:02x}", fmt::join(unknown, ""));
  if (const auto made = tap.make(); !made) return std::unexpected(made.error());
  while (tap.queues() < queues)
    if (const auto added = tap.add_queue(); !added) return std::unexpected(added.error());
  if (const auto set = tap.set_offloads(); !set) return std::unexpected(set.error());
  if (const auto set = tap.configure(); !set) return std::unexpected(set.error());
  if (const auto named = tap.rename(pattern); !named) return std::unexpected(named.error());
  if (tap.has_strangers())
    return fail(EPERM, fmt::format("TAP: somebody else has attached to {}", tap.name_));
  return tap;
}

// make makes the TAP in a network namespace that nobody else is in, gives it an owner there and
// brings it here: until it has one any user may attach to it who hears of it. Without CAP_SYS_ADMIN
// that is done here, and strangers are found at the end. The first queue keeps that namespace from
// ending, so it goes when there is another.
std::expected<void, TapError> Tap::make() {
  const auto begin = [this] {
    const auto added = add_queue();
    return added ? own() : added;
  };
  const UniqueFd here(::open(kOwnNetns, O_RDONLY | O_CLOEXEC)), apart = new_netns();
  if (!here || !apart) return begin();
  {
    const InNetns inside(apart.get());
    if (!inside.entered()) return fail_ioctl("setns");
    if (const auto begun = begin(); !begun) return begun;
    if (const auto moved = move_link(name_, here.get(), 0, name_); !moved)
      return fail(EPERM, "TAP: " + moved.error());
  }
  if (const auto added = add_queue(); !added) return added;
  queues_.erase(queues_.begin());
  return {};
}

std::expected<void, TapError> Tap::add_queue() {
  UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!fd) return fail(errno, why_no_tun(errno));
  ifreq request = request_for(name_);
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE);
  if (::ioctl(fd.get(), TUNSETIFF, &request) != 0) {
    if (errno == EPERM) return fail(EPERM, "TAP: creating one needs CAP_NET_ADMIN");
    return fail_ioctl("TUNSETIFF");
  }
  int header_size = datapath::kVnetHeader;
  if (::ioctl(fd.get(), TUNSETVNETHDRSZ, &header_size) != 0) return fail_ioctl("TUNSETVNETHDRSZ");
  queues_.push_back(std::move(fd));
  return {};
}

// own makes the TAP nobody's: attaching then needs CAP_NET_ADMIN over its namespace, which its
// owner would not, and not all who have pspd's user number have it. A user namespace may not know
// that number.
std::expected<void, TapError> Tap::own() const {
  constexpr uid_t kNobodys = static_cast<uid_t>(-2);
  const int fd = queues_.front().get();
  if (::ioctl(fd, TUNSETOWNER, kNobodys) == 0) return {};
  if (errno != EINVAL || ::ioctl(fd, TUNSETOWNER, ::geteuid()) != 0)
    return fail_ioctl("TUNSETOWNER");
  return {};
}

std::expected<void, TapError> Tap::rename(std::string_view pattern) {
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_ioctl("socket");
  ifreq request = request_for(name_);
  pattern.copy(request.ifr_newname, IFNAMSIZ - 1);
  request.ifr_newname[pattern.size()] = '\0';
  if (::ioctl(socket.get(), SIOCSIFNAME, &request) != 0) {
    if (errno == EEXIST)
      return fail(EBUSY, fmt::format("TAP: an interface named {} is already there", pattern));
    return fail_ioctl("SIOCSIFNAME");
  }
  request = {};
  request.ifr_ifindex = static_cast<int>(ifindex_);
  if (::ioctl(socket.get(), SIOCGIFNAME, &request) != 0) return fail_ioctl("SIOCGIFNAME");
  name_ = request.ifr_name;
  if (!silence(name_)) {
    if (!notice_.empty()) notice_ += "; ";
    notice_ += fmt::format("IPv6 cannot be switched off on {}", name_);
  }
  return {};
}

bool Tap::has_strangers() const { return tap_queues(ifindex_) != queues(); }

std::expected<void, TapError> Tap::set_offloads() {
  constexpr unsigned kTso =
      datapath::kTunCsum | datapath::kTunTso4 | datapath::kTunTso6 | datapath::kTunTsoEcn;
  const int fd = queues_.front().get();
  has_uso_ = ::ioctl(fd, TUNSETOFFLOAD, kTso | datapath::kTunUso4 | datapath::kTunUso6) == 0;
  if (has_uso_) return {};
  notice_ =
      "the TAP of this kernel has no UDP segmentation offload (needs Linux 6.2 or newer): sealed "
      "packets are written one by one, expect a fraction of the speed";
  if (::ioctl(fd, TUNSETOFFLOAD, kTso) != 0) return fail_ioctl("TUNSETOFFLOAD");
  return {};
}

std::expected<void, TapError> Tap::configure() {
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_ioctl("socket");
  ifreq request = request_for(name_);
  if (::ioctl(socket.get(), SIOCGIFINDEX, &request) != 0) return fail_ioctl("SIOCGIFINDEX");
  ifindex_ = static_cast<unsigned>(request.ifr_ifindex);
  request.ifr_qlen = kQueueLength;
  if (::ioctl(socket.get(), SIOCSIFTXQLEN, &request) != 0) return fail_ioctl("SIOCSIFTXQLEN");
  request.ifr_mtu = kMaxMtu;
  if (::ioctl(socket.get(), SIOCSIFMTU, &request) != 0) return fail_ioctl("SIOCSIFMTU");
  return {};
}

std::expected<void, TapError> Tap::bring_up() const {
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_ioctl("socket");
  ifreq request = request_for(name_);
  if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0) return fail_ioctl("SIOCGIFFLAGS");
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP | IFF_NOARP);
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) return fail_ioctl("SIOCSIFFLAGS");
  return {};
}

// link is what the TAP is like once it is up.
LinkSettings Tap::link() const { return {name_, kMaxMtu, kQueueLength, true}; }

// elsewhere is the network namespace where the TAP is, if it is not the current one.
std::expected<UniqueFd, std::string> Tap::elsewhere() const {
  const auto unknown = [this] {
    return std::unexpected(
        fmt::format("the kernel does not tell where {} is: {}", name_, std::strerror(errno)));
  };
  UniqueFd there(::ioctl(queues_.front().get(), TUNGETDEVNETNS));
  struct stat here {
  }, of_tap{};
  if (!there || ::fstat(there.get(), &of_tap) != 0 || ::stat(kOwnNetns, &here) != 0)
    return unknown();
  if (here.st_dev == of_tap.st_dev && here.st_ino == of_tap.st_ino) return UniqueFd();
  return there;
}

Finding Tap::changed() const {
  const auto away = elsewhere();
  if (!away) return std::unexpected(away.error());
  if (*away) return name_ + " was moved to another network namespace";
  const auto now = read_link(ifindex_);
  if (!now) return std::unexpected(now.error());
  if (!*now) return std::unexpected(name_ + " has gone");
  if ((*now)->name != name_) return fmt::format("{} was renamed {}", name_, (*now)->name);
  if (!(*now)->up) return name_ + " was set down";
  if ((*now)->mtu != kMaxMtu) return fmt::format("{} was given an MTU of {}", name_, (*now)->mtu);
  if ((*now)->queue_length != kQueueLength)
    return fmt::format("{} was given a queue length of {}", name_, (*now)->queue_length);
  return std::nullopt;
}

std::expected<void, std::string> Tap::bring_home(int from) const {
  const UniqueFd home(::open(kOwnNetns, O_RDONLY | O_CLOEXEC));
  ifreq there{};  // its name may be another one, too
  if (!home || ::ioctl(queues_.front().get(), TUNGETIFF, &there) != 0)
    return std::unexpected(fmt::format("{}: {}", name_, std::strerror(errno)));
  {
    const InNetns inside(from);
    if (!inside.entered())
      return std::unexpected(name_ + ": the network namespace where it is cannot be entered");
    if (auto moved = move_link(there.ifr_name, home.get(), ifindex_, name_); !moved) return moved;
  }
  if (silence(name_)) return {};
  return std::unexpected(fmt::format("IPv6 cannot be switched off on {}", name_));
}

std::expected<void, std::string> Tap::put_back() const {
  const auto away = elsewhere();
  if (!away) return std::unexpected(away.error());
  if (*away)
    if (auto home = bring_home(away->get()); !home) return home;
  const auto now = read_link(ifindex_);
  if (!now) return std::unexpected(now.error());
  if (!*now) return std::unexpected(name_ + " has gone");
  LinkSettings renamed = link();
  renamed.name = (*now)->name;
  if (renamed.name == name_) return set_link(ifindex_, link());
  // Before Linux 6.2 nothing is renamed while it is up. What works must not end for its name.
  renamed.up = ::if_nametoindex(name_.c_str()) != 0;
  if (auto set = set_link(ifindex_, renamed); !set) return set;
  if (renamed.up) return std::unexpected(fmt::format("another netdev is named {}", name_));
  return set_link(ifindex_, link());
}

}  // namespace psp::kernel
