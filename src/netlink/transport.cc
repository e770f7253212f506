// SPDX-License-Identifier: Apache-2.0
//
// The two transports of the client.
#include "transport.hh"

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <psp/netlink/trusted_peer.h>

namespace psp::netlink {
namespace {

void set_timeouts(int fd) {
  const timeval limit = {.tv_sec = kAnswerTimeout.count(), .tv_usec = 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

// make_address: "@name" is abstract, all else a path.
ClientResult<std::pair<sockaddr_un, socklen_t>> make_address(const std::string& name) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const bool abstract = !name.empty() && name[0] == '@';
  if (name.size() < (abstract ? 2u : 1u))
    return client_error(EINVAL, "the name of pspd's socket is empty");
  if (name.size() >= sizeof address.sun_path)
    return client_error(ENAMETOOLONG, "the name of pspd's socket is too long: " + name);
  std::memcpy(address.sun_path, name.data(), name.size());
  if (abstract) address.sun_path[0] = '\0';
  const std::size_t size = offsetof(sockaddr_un, sun_path) + name.size() + (abstract ? 0 : 1);
  return std::pair{address, static_cast<socklen_t>(size)};
}

std::string no_daemon_text(const std::string& socket, int error) {
  if (error == ENOENT || error == ECONNREFUSED)
    return "no pspd answers at " + socket + ": start one with 'pspd --dev IFNAME'";
  if (error == EAGAIN) return "pspd at " + socket + " is too busy to answer";
  return "cannot connect to pspd at " + socket + ": " + std::strerror(error);
}

}  // namespace

std::unexpected<ClientError> client_error(int sys_errno, std::string text) {
  ClientError error;
  error.sys_errno = sys_errno;
  error.text = text;
  error.message = std::move(text);
  return std::unexpected(std::move(error));
}

std::unexpected<ClientError> notifications_lost() {
  return client_error(ENOBUFS, "notifications came faster than they were read; some are lost");
}

ClientResult<Transport> Transport::open_kernel() {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC));
  if (!fd)
    return client_error(errno,
                        std::string("cannot open a netlink socket: ") + std::strerror(errno));
  const int on = 1;
  ::setsockopt(fd.get(), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
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
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address->first), address->second) != 0)
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
  if (::setsockopt(fd_.get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) == 0)
    return {};
  return client_error(errno, std::string("cannot join a netlink group: ") + std::strerror(errno));
}

}  // namespace psp::netlink
