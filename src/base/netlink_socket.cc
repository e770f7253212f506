// SPDX-License-Identifier: Apache-2.0
//
// A request to the kernel by netlink, over libmnl. Once it is connected to port 0 the socket takes
// messages of the kernel alone; what a process sent between bind() and connect() is known by its
// port and passed over, so many times and no more. A kernel that does not answer costs 5 s
// (SO_RCVTIMEO) and no thread for good.
#include "netlink_socket.hh"

#include <cerrno>
#include <linux/netlink.h>
#include <sys/socket.h>

namespace psp {
namespace {

int on_message(const nlmsghdr* message, void* data) {
  (*static_cast<const std::function<void(const nlmsghdr&)>*>(data))(*message);
  return MNL_CB_OK;
}

}  // namespace

NetlinkSocket::NetlinkSocket(int bus)
    : socket_(mnl_socket_open2(bus, SOCK_CLOEXEC), mnl_socket_close) {
  const timeval patience{.tv_sec = 5, .tv_usec = 0};
  // Connected to the kernel, it takes no message of a process.
  const sockaddr_nl kernel{.nl_family = AF_NETLINK, .nl_pad = 0, .nl_pid = 0, .nl_groups = 0};
  if (socket_ && (mnl_socket_bind(socket_.get(), 0, MNL_SOCKET_AUTOPID) < 0 ||
                  ::connect(fd(), reinterpret_cast<const sockaddr*>(&kernel), sizeof kernel) != 0 ||
                  ::setsockopt(fd(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0))
    socket_.reset();
}

// receive reads the kernel's next datagram. What a stranger sent before the socket was connected is
// not read.
ssize_t NetlinkSocket::receive(std::span<char> room) const {
  constexpr int kStrangers = 1000;
  for (int i = 0; i < kStrangers; i++) {
    sockaddr_nl from{};
    iovec part{room.data(), room.size()};
    msghdr message{};
    message.msg_name = &from;
    message.msg_namelen = sizeof from;
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    const ssize_t n = ::recvmsg(fd(), &message, 0);
    if (n < 0) return -1;
    if (from.nl_pid != 0) continue;
    if ((message.msg_flags & MSG_TRUNC) == 0) return n;
    errno = ENOSPC;
    return -1;
  }
  errno = EBADMSG;
  return -1;
}

ssize_t NetlinkSocket::ask(std::span<char> room) const {
  const auto* request = reinterpret_cast<const nlmsghdr*>(room.data());
  if (mnl_socket_sendto(socket_.get(), request, request->nlmsg_len) < 0) return -1;
  return receive(room);
}

bool NetlinkSocket::exchange(std::span<char> room) const {
  const ssize_t n = ask(room);
  if (n < 0) return false;
  const auto* message = reinterpret_cast<const nlmsghdr*>(room.data());
  errno = EBADMSG;
  if (!mnl_nlmsg_ok(message, static_cast<int>(n))) return false;
  if (message->nlmsg_type != NLMSG_ERROR) return true;
  if (mnl_nlmsg_get_payload_len(message) < sizeof(nlmsgerr)) return false;
  errno = -static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(message))->error;
  return errno == 0;
}

bool NetlinkSocket::dump(std::span<char> room,
                         const std::function<void(const nlmsghdr&)>& visit) const {
  const auto* request = reinterpret_cast<const nlmsghdr*>(room.data());
  if (mnl_socket_sendto(socket_.get(), request, request->nlmsg_len) < 0) return false;
  for (int more = MNL_CB_OK; more > MNL_CB_STOP;) {
    const ssize_t n = receive(room);
    if (n < 0) return false;
    more = mnl_cb_run(room.data(), static_cast<std::size_t>(n), 0,
                      mnl_socket_get_portid(socket_.get()), on_message,
                      const_cast<std::function<void(const nlmsghdr&)>*>(&visit));
    if (more < 0) return false;
  }
  return true;
}

}  // namespace psp
