// SPDX-License-Identifier: Apache-2.0
//
// Which netdev does a connected socket send by? Asked of the kernel's routing table (RTM_GETROUTE)
// with the socket's own addresses, mark and bound device, so that policy routing is honoured. It is
// a guess as good as the kernel's at this moment: a rule that looks at something else (a user, a
// port) may lead elsewhere, and then rx_assoc refuses, by the route that the socket really has.
//
// Threading: one user at a time.
#include <linux/rtnetlink.h>
#include <memory>
#include <sys/socket.h>

#include "base/netlink_socket.hh"
#include "base/socket_options.hh"
#include "keyx/client_ops.hh"

#include "addresses.hh"

namespace psp::keyx {
namespace {

unsigned socket_option(int fd, int option) {
  return get_option<unsigned>(fd, SOL_SOCKET, option).value_or(0);
}

// outgoing is the attribute RTA_OIF of an answer.
std::optional<unsigned> outgoing(const nlmsghdr* answer) {
  unsigned found = 0;
  for_each_attribute(answer, sizeof(rtmsg), [&](const nlattr* attribute) {
    if (mnl_attr_get_type(attribute) == RTA_OIF && mnl_attr_validate(attribute, MNL_TYPE_U32) >= 0)
      found = mnl_attr_get_u32(attribute);
  });
  return found != 0 ? std::optional(found) : std::nullopt;
}

}  // namespace

Routes::Routes() = default;
Routes::~Routes() = default;

std::optional<unsigned> Routes::ifindex(int fd) {
  const auto addresses = addresses_of(fd);
  if (!addresses) return std::nullopt;
  const auto& [source, target] = *addresses;

  // Opening a socket takes longer than asking.
  if (!socket_) socket_ = std::make_unique<NetlinkSocket>(NETLINK_ROUTE);
  alignas(nlmsghdr) char buffer[8192];
  const auto [request, route] = start_request<rtmsg>(buffer, RTM_GETROUTE);
  route->rtm_family = static_cast<unsigned char>(target.family);
  route->rtm_dst_len = route->rtm_src_len = static_cast<unsigned char>(target.size * 8);
  mnl_attr_put(request, RTA_DST, target.size, target.octets);
  mnl_attr_put(request, RTA_SRC, source.size, source.octets);
  if (const unsigned mark = socket_option(fd, SO_MARK)) mnl_attr_put_u32(request, RTA_MARK, mark);
  const unsigned bound = target.scope != 0 ? target.scope : socket_option(fd, SO_BINDTOIFINDEX);
  if (bound != 0) mnl_attr_put_u32(request, RTA_OIF, bound);

  // One request, one answer: after anything else the socket is not used again.
  const ssize_t got = *socket_ ? socket_->ask(buffer) : -1;
  if (got < 0) {
    socket_.reset();
    return std::nullopt;
  }
  const auto* answer = reinterpret_cast<const nlmsghdr*>(buffer);
  if (!mnl_nlmsg_ok(answer, static_cast<int>(got)) || answer->nlmsg_type != RTM_NEWROUTE)
    return std::nullopt;
  return outgoing(answer);
}

}  // namespace psp::keyx
