// SPDX-License-Identifier: Apache-2.0
//
// What a client asks of one who serves the family, and how it hears of changes: the kernel has
// multicast groups of netlink sockets, pspd a request of its own (softpsp subscribe). The number of
// a family is resolved by name, once for each connection, since it is the server's to choose.
// `softpsp` is resolved when it is first needed: the kernel has none of it. Lost notifications are
// told as such (ENOBUFS), and never passed over.
#include "netlink/endpoint.hh"

#include <algorithm>
#include <cerrno>
#include <linux/genetlink.h>
#include <utility>

#include "netlink/messages/softpsp.hh"
#include <psp/netlink/uapi.h>

namespace psp::netlink {
namespace {

ClientResult<FamilyInfo> resolve(Connection& connection, const char* name) {
  const RequestHead head{
      .what = "getfamily", .family = GENL_ID_CTRL, .version = 1, .cmd = CTRL_CMD_GETFAMILY};
  auto info = connection.ask_for<FamilyInfo>(head, FamilyRequest{.name = name});
  if (info && info->id == 0)
    return client_error(EPROTO, "getfamily: the answer lacks a family number");
  return info;
}

}  // namespace

ClientResult<Endpoint> Endpoint::open_kernel() { return open(Transport::open_kernel(), {}); }

ClientResult<Endpoint> Endpoint::open_daemon(const std::string& socket) {
  return open(Transport::open_daemon(socket), socket);
}

ClientResult<Endpoint> Endpoint::open(ClientResult<Transport> transport, std::string socket) {
  if (!transport) return std::unexpected(transport.error());
  Connection connection(std::move(*transport));
  auto family = resolve(connection, PSPNL_FAMILY_NAME);
  if (!family) return std::unexpected(family.error());
  return Endpoint(std::move(connection), std::move(socket), std::move(*family));
}

Provider Endpoint::provider() const {
  return connection_.is_kernel() ? Provider::kKernel : Provider::kDaemon;
}

RequestHead Endpoint::head(const char* what, std::uint8_t cmd) const {
  return {.what = what, .family = psp_.id, .version = PSPNL_FAMILY_VERSION, .cmd = cmd};
}

ClientResult<RequestHead> Endpoint::own_head(const char* what, std::uint8_t cmd) {
  if (connection_.is_kernel()) {
    ClientError error;
    error.sys_errno = EOPNOTSUPP;
    error.text = "only pspd can answer this, and the kernel's own PSP is in use";
    return refusal(what, std::move(error));
  }
  if (!softpsp_) {
    auto family = resolve(connection_, SOFTPSP_FAMILY_NAME);
    if (!family) return std::unexpected(family.error());
    softpsp_ = std::move(*family);
  }
  return RequestHead{
      .what = what, .family = softpsp_->id, .version = SOFTPSP_FAMILY_VERSION, .cmd = cmd};
}

// mine completes what the message does not say.
DeviceInfo Endpoint::mine(DeviceInfo info) const {
  info.provider = provider();
  // Some kernels tell it, but here it is the number of some other netdev, or of none.
  if (info.by_association) info.ifindex = 0;
  return info;
}

ClientResult<std::vector<DeviceInfo>> Endpoint::devices() {
  auto all = connection_.list<DeviceInfo>(head("dev-get", PSPNL_CMD_DEV_GET));
  if (!all) return all;
  for (DeviceInfo& info : *all) info = mine(std::move(info));
  return all;
}

ClientResult<DeviceInfo> Endpoint::device(std::uint32_t id) {
  auto info =
      connection_.ask_for<DeviceInfo>(head("dev-get", PSPNL_CMD_DEV_GET), DeviceRequest{.id = id});
  if (!info) return info;
  return mine(std::move(*info));
}

bool Endpoint::serves(int fd) {
  auto head = own_head("serve-get", SOFTPSP_CMD_SERVE_GET);
  if (!head) return false;
  head->attached = fd;
  return connection_.ask_for<ServeInfo>(*head).has_value();
}

ClientResult<void> Endpoint::join(Connection& events, const char* name) {
  const auto group = std::ranges::find(psp_.groups, name, &FamilyInfo::Group::name);
  if (group == psp_.groups.end())
    return client_error(EPROTO, std::string("subscribe: there is no group ") + name);
  return events.join(group->id);
}

ClientResult<void> Endpoint::subscribe(bool mgmt, bool use) {
  const bool kernel = connection_.is_kernel();
  auto transport = kernel ? Transport::open_kernel() : Transport::open_daemon(socket_);
  if (!transport) return std::unexpected(transport.error());
  Connection events(std::move(*transport));
  ClientResult<void> joined;
  if (kernel) {
    if (mgmt) joined = join(events, PSPNL_MCGRP_MGMT);
    if (joined && use) joined = join(events, PSPNL_MCGRP_USE);
  } else {
    const auto head = own_head("subscribe", SOFTPSP_CMD_SUBSCRIBE);
    if (!head) return std::unexpected(head.error());
    joined = events.ask(*head, SubscribeRequest{.groups = (mgmt ? SOFTPSP_GROUP_MGMT : 0u) |
                                                          (use ? SOFTPSP_GROUP_USE : 0u)});
  }
  if (!joined) return joined;
  events_ = std::move(events);
  pending_.clear();
  return {};
}

ClientResult<void> Endpoint::receive() {
  bool lost = false;
  const auto done = events_->receive([&](const nlmsghdr* message) {
    // The sign stands alone in its datagram, which is asked for when none is pending.
    lost = message->nlmsg_type == NLMSG_OVERRUN && message->nlmsg_seq == SOFTPSP_OVERRUN_SEQ;
    if (lost) return false;
    if (message->nlmsg_type != psp_.id || message->nlmsg_len < NLMSG_HDRLEN + GENL_HDRLEN)
      return true;
    const auto* header = static_cast<const genlmsghdr*>(mnl_nlmsg_get_payload(message));
    if (const auto kind = kind_of(header->cmd))
      pending_.insert(pending_.begin(),
                      {*kind, mine(read<DeviceInfo>(message_attributes(message)))});
    return true;
  });
  return lost ? ClientResult<void>(notifications_lost()) : done;
}

std::optional<Notification> Endpoint::next() {
  if (pending_.empty()) return std::nullopt;
  Notification oldest = std::move(pending_.back());
  pending_.pop_back();
  return oldest;
}

}  // namespace psp::netlink
