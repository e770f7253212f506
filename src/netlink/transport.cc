// SPDX-License-Identifier: Apache-2.0
//
// The two transports of the client: their sockets, and what is said where these fail. A pspd that
// is not trusted is not connected to, a kernel cannot but be trusted: the socket is connected to
// port 0, after which no process can answer in its place. Sends and receives end after
// kAnswerTimeout. To the kernel a socket goes as its number in the message, to pspd as a descriptor
// beside it; a number that is no descriptor goes without, so that the server can say EBADF.
#include "netlink/transport.hh"

#include <cerrno>
#include <cstring>
#include <linux/netlink.h>
#include <sys/socket.h>

#include "base/socket_options.hh"
#include "base/unix_address.hh"
#include "netlink/trusted_peer.h"

namespace psp::netlink {
namespace {

void set_timeouts(int fd) {
  const timeval limit = {.tv_sec = kAnswerTimeout.count(), .tv_usec = 0};
  (void)set_option(fd, SOL_SOCKET, SO_RCVTIMEO, limit);
  (void)set_option(fd, SOL_SOCKET, SO_SNDTIMEO, limit);
}

ClientResult<UnixAddress> make_address(const std::string& name) {
  if (const auto address = UnixAddress::parse(name)) return *address;
  if (name.empty() || name == "@")
    return client_error(EINVAL, "the name of pspd's socket is empty");
  return client_error(ENAMETOOLONG, "the name of pspd's socket is too long: " + name);
}

std::string no_daemon_text(const std::string& socket, int error) {
  if (error == ENOENT || error == ECONNREFUSED)
    return "no pspd answers at " + socket + ": start one with 'pspd --dev IFNAME'";
  if (error == EAGAIN) return "pspd at " + socket + " is too busy to answer";
  return "cannot connect to pspd at " + socket + ": " + std::strerror(error);
}

}  // namespace

ClientResult<Transport> Transport::open_kernel() {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC));
  if (!fd)
    return client_error(errno,
                        std::string("cannot open a netlink socket: ") + std::strerror(errno));
  (void)set_option(fd.get(), SOL_NETLINK, NETLINK_EXT_ACK, 1);
  sockaddr_nl address = {};
  address.nl_family = AF_NETLINK;
  // Connected to port 0, the socket takes messages from the kernel only.
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return client_error(errno, std::string("cannot use a netlink socket: ") + std::strerror(errno));
  set_timeouts(fd.get());
  return Transport(std::move(fd), true);
}

ClientResult<Transport> Transport::open_daemon(const std::string& socket) {
  const auto address = make_address(socket);
  if (!address) return std::unexpected(address.error());
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd)
    return client_error(errno, std::string("cannot open a unix socket: ") + std::strerror(errno));
  set_timeouts(fd.get());
  if (::connect(fd.get(), address->get(), address->length()) != 0)
    return client_error(errno == ECONNREFUSED ? ENOENT : errno, no_daemon_text(socket, errno));
  uid_t peer = 0;
  if (!psp_peer_trusted(fd.get(), &peer))
    return client_error(EPERM,
                        "the program at " + socket + " runs as user " + std::to_string(peer) +
                            (peer == psp_stranger_uid() ? ", which here may be anybody" : "") +
                            ": only a pspd of root or of the caller is trusted with keys");
  return Transport(std::move(fd), false);
}

ClientResult<void> Transport::send(std::span<const std::uint8_t> datagram, int attached) {
  iovec data = {const_cast<std::uint8_t*>(datagram.data()), datagram.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (attached >= 0 && !kernel_) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(rights), &attached, sizeof attached);
  }
  ssize_t sent;
  do {
    sent = ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent >= 0) return {};
  // A number that is no open descriptor cannot travel; the answer must still be the server's EBADF.
  if (errno == EBADF && message.msg_control != nullptr) return send(datagram, -1);
  if (errno == EAGAIN) return client_error(ETIMEDOUT, std::string(peer()) + " takes no request");
  if (errno == EPIPE || errno == ECONNRESET)
    return client_error(ECONNRESET, std::string(peer()) + " has closed the connection");
  return client_error(errno, std::string("cannot send to ") + peer() + ": " + std::strerror(errno));
}

ClientResult<std::size_t> Transport::receive(std::span<std::uint8_t> buffer) {
  ssize_t got;
  do {
    got = ::recv(fd_.get(), buffer.data(), buffer.size(), MSG_TRUNC);
  } while (got < 0 && errno == EINTR);
  const std::string who = peer();
  if (got < 0 && errno == EAGAIN)
    return client_error(ETIMEDOUT, who + " does not answer (waited " +
                                       std::to_string(kAnswerTimeout.count()) + " s)");
  if (got < 0 && errno == ENOBUFS) return notifications_lost();
  if (got == 0 || (got < 0 && errno == ECONNRESET))
    return client_error(ECONNRESET, who + " closed the connection before it answered");
  if (got < 0)
    return client_error(errno, "cannot receive from " + who + ": " + std::strerror(errno));
  if (static_cast<std::size_t>(got) > buffer.size())
    return client_error(EMSGSIZE, who + " sent a message that is too long");
  return static_cast<std::size_t>(got);
}

ClientResult<void> Transport::join(std::uint32_t group) {
  if (set_option(fd_.get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)) return {};
  return client_error(errno, std::string("cannot join a netlink group: ") + std::strerror(errno));
}

}  // namespace psp::netlink
