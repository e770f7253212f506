// SPDX-License-Identifier: Apache-2.0
//
// Which netdev does a connected socket send by? Asked of the kernel's routing table (RTM_GETROUTE)
// with the socket's own addresses, mark and bound device, so that policy routing is honoured.
#include <cstring>
#include <libmnl/libmnl.h>
#include <linux/rtnetlink.h>
#include <memory>
#include <netinet/in.h>
#include <sys/socket.h>

#include <psp/keyx/ops.hh>

namespace psp::keyx {
namespace {

// Address is an IPv4 or IPv6 address; IPv4 in IPv6 is IPv4, as it is on the wire.
struct Address {
  int family = AF_UNSPEC;
  std::size_t size = 0;
  unsigned char octets[16] = {};
  unsigned scope = 0;
};

Address to_address(const sockaddr_storage& from) {
  Address out;
  if (from.ss_family == AF_INET) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(from);
    out = {.family = AF_INET, .size = 4};
    std::memcpy(out.octets, &in.sin_addr, 4);
  } else if (from.ss_family == AF_INET6) {
    const auto& in = reinterpret_cast<const sockaddr_in6&>(from);
    if (IN6_IS_ADDR_V4MAPPED(&in.sin6_addr)) {
      out = {.family = AF_INET, .size = 4};
      std::memcpy(out.octets, in.sin6_addr.s6_addr + 12, 4);
    } else {
      out = {.family = AF_INET6, .size = 16, .octets = {}, .scope = in.sin6_scope_id};
      std::memcpy(out.octets, &in.sin6_addr, 16);
    }
  }
  return out;
}

unsigned socket_option(int fd, int option) {
  unsigned value = 0;
  socklen_t size = sizeof value;
  return getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : 0;
}

// The attribute RTA_OIF of the answer goes to *data.
int on_route(const nlmsghdr* message, void* data) {
  if (message->nlmsg_type != RTM_NEWROUTE) return MNL_CB_OK;
  for (const auto* attr =
           static_cast<const nlattr*>(mnl_nlmsg_get_payload_offset(message, sizeof(rtmsg)));
       mnl_attr_ok(attr,
                   static_cast<int>(static_cast<const char*>(mnl_nlmsg_get_payload_tail(message)) -
                                    reinterpret_cast<const char*>(attr)));
       attr = mnl_attr_next(attr)) {
    if (mnl_attr_get_type(attr) == RTA_OIF && mnl_attr_validate(attr, MNL_TYPE_U32) >= 0)
      *static_cast<unsigned*>(data) = mnl_attr_get_u32(attr);
  }
  return MNL_CB_STOP;
}

}  // namespace

// Link is a socket to the kernel's routing table; opening one takes longer than asking.
struct Routes::Link {
  mnl_socket* socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
  bool good = socket != nullptr && mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) == 0;

  Link() = default;
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;
  ~Link() {
    if (socket != nullptr) mnl_socket_close(socket);
  }
};

Routes::Routes() = default;
Routes::~Routes() = default;

std::optional<unsigned> Routes::ifindex(int fd) {
  sockaddr_storage local{}, remote{};
  socklen_t local_size = sizeof local, remote_size = sizeof remote;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&local), &local_size) != 0 ||
      getpeername(fd, reinterpret_cast<sockaddr*>(&remote), &remote_size) != 0)
    return std::nullopt;
  const Address source = to_address(local), target = to_address(remote);
  if (target.size == 0 || source.family != target.family) return std::nullopt;

  if (!link_ || !link_->good) link_ = std::make_unique<Link>();
  if (!link_->good) return std::nullopt;
  mnl_socket* const netlink = link_->socket;
  alignas(nlmsghdr) char buffer[8192];
  nlmsghdr* request = mnl_nlmsg_put_header(buffer);
  request->nlmsg_type = RTM_GETROUTE;
  request->nlmsg_flags = NLM_F_REQUEST;
  auto* route = static_cast<rtmsg*>(mnl_nlmsg_put_extra_header(request, sizeof(rtmsg)));
  route->rtm_family = static_cast<unsigned char>(target.family);
  route->rtm_dst_len = route->rtm_src_len = static_cast<unsigned char>(target.size * 8);
  mnl_attr_put(request, RTA_DST, target.size, target.octets);
  mnl_attr_put(request, RTA_SRC, source.size, source.octets);
  if (const unsigned mark = socket_option(fd, SO_MARK)) mnl_attr_put_u32(request, RTA_MARK, mark);
  const unsigned bound = target.scope != 0 ? target.scope : socket_option(fd, SO_BINDTOIFINDEX);
  if (bound != 0) mnl_attr_put_u32(request, RTA_OIF, bound);

  // One question, one answer: after anything else the socket is not used again.
  link_->good = mnl_socket_sendto(netlink, request, request->nlmsg_len) >= 0;
  if (!link_->good) return std::nullopt;
  const ssize_t got = mnl_socket_recvfrom(netlink, buffer, sizeof buffer);
  link_->good = got > 0;
  unsigned found = 0;
  if (got <= 0 || mnl_cb_run(buffer, static_cast<std::size_t>(got), 0,
                             mnl_socket_get_portid(netlink), on_route, &found) < 0)
    return std::nullopt;
  return found != 0 ? std::optional(found) : std::nullopt;
}

}  // namespace psp::keyx
