// SPDX-License-Identifier: Apache-2.0
//
// Three sockets of the kernel's: sock_diag, rtnetlink, uevents. A message of rtnetlink is not read
// for what it says: whoever is told looks at the netdevs itself. So one that is lost costs nothing,
// and one that lies gains nothing.
//
// Only messages of the kernel count (port 0): whoever is root in a container may send to the same
// groups. Events of home are told apart from those of others, who can cause as many as they like.
#include "events.hh"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fmt/format.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include "base/socket_options.hh"

namespace psp::host {
namespace {

constexpr std::chrono::milliseconds kRest{2};
// Whoever is root in a container can cause as many events as it likes: those wait for each other.
constexpr int kBurst = 256;

// Whose event it is: of this namespace, of others or nobody can tell, or no event of the kernel's.
enum class Whose { kHome, kOthers, kNobodys };

// read_netdev_event takes one message off the socket. Nothing when there is none. Whoever is root
// in a container may say things to the group, and fill the socket: what was lost is looked for as
// if it were his.
std::optional<Whose> read_netdev_event(int fd) {
  char buffer[16384];
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  iovec part{buffer, sizeof buffer};
  sockaddr_nl from{};
  msghdr message{};
  message.msg_name = &from;
  message.msg_namelen = sizeof from;
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (::recvmsg(fd, &message, 0) < 0) {
    if (errno == ENOBUFS) return Whose::kOthers;
    return std::nullopt;
  }
  if (from.nl_pid != 0) return Whose::kNobodys;
  const cmsghdr* nsid = CMSG_FIRSTHDR(&message);  // only on those of other namespaces
  return nsid == nullptr || nsid->cmsg_type != NETLINK_LISTEN_ALL_NSID ? Whose::kHome
                                                                       : Whose::kOthers;
}

}  // namespace

std::expected<void, std::string> Events::listen() {
  auto sockets = kernel::DestroyEvents::open();
  if (!sockets) return std::unexpected(sockets.error());
  sockets_ = std::move(*sockets);
  return {};
}

std::expected<void, std::string> Events::watch() {
  socket_events_ = loop_.on_readable(sockets_->fd(), [this] { on_sockets(); });
  auto forks = kernel::VmForkEvents::open();
  if (!forks) return std::unexpected(forks.error());
  vm_forks_ = std::move(*forks);
  vm_fork_events_ = loop_.on_readable(vm_forks_->fd(), [this] {
    if (vm_forks_->read()) calls_.vm_forked();
  });
  return watch_netdevs();
}

std::expected<void, std::string> Events::watch_netdevs() {
  netdevs_ = UniqueFd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = RTMGRP_LINK | RTMGRP_TC;  // and filters: ours must not be missing for long
  // Also of the namespaces with associated netdevs.
  if (!netdevs_ || !set_option(netdevs_.get(), SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1) ||
      ::bind(netdevs_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return std::unexpected(
        fmt::format("cannot hear of changes of network devices: {}", std::strerror(errno)));
  netdev_events_ = loop_.on_readable(netdevs_.get(), [this] { on_netdevs(); });
  rest_ = loop_.every(kRest, [this] {
    rest_.enable(!socket_events_.enable(true) || !netdev_events_.enable(true));
  });
  rest_.enable(false);
  return {};
}

void Events::on_sockets() {
  const auto gone = [this](const kernel::SecuredSocket& socket) {
    calls_.socket_gone(socket.cookie());
  };
  const auto heard = sockets_->read(gone);
  if (heard == kernel::DestroyEvents::Heard::kLost) calls_.sockets_missed();
  // A loss, too: where they come faster than they are read, others have their turns all the same.
  if (heard == kernel::DestroyEvents::Heard::kMore || heard == kernel::DestroyEvents::Heard::kLost)
    rest(socket_events_);
}

void Events::on_netdevs() {
  bool at_home = false, of_kernel = false;
  for (int burst = 0;; burst++) {
    const auto event = read_netdev_event(netdevs_.get());
    if (!event) break;
    at_home |= *event == Whose::kHome;
    of_kernel |= *event != Whose::kNobodys;
    if (burst == kBurst) {
      rest(netdev_events_);
      break;
    }
  }
  if (of_kernel) calls_.netdevs_changed(at_home);
}

// rest lets others have their turns.
void Events::rest(Loop::Source& source) {
  source.enable(false);
  rest_.enable(true);
}

}  // namespace psp::host
