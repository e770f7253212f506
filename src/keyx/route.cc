// SPDX-License-Identifier: Apache-2.0
//
// Which netdev does a connected socket send by? Asked of the kernel's routing table (RTM_GETROUTE)
// with the socket's own addresses, mark and bound device, so that policy routing is honoured.
#include <libmnl/libmnl.h>
#include <linux/rtnetlink.h>
#include <memory>
#include <sys/socket.h>

#include <psp/keyx/ops.hh>

#include "addresses.hh"

namespace psp::keyx {
namespace {

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
  const auto addresses = addresses_of(fd);
  if (!addresses) return std::nullopt;
  const auto& [source, target] = *addresses;

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
