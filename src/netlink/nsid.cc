// SPDX-License-Identifier: Apache-2.0
#include "nsid.hh"

#include <array>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>
#include <memory>
#include <sys/socket.h>

#include <psp/base/unique_fd.hh>

namespace psp::netlink {
namespace {

int on_nsid(const nlattr* attribute, void* data) {
  if (mnl_attr_get_type(attribute) == NETNSA_NSID &&
      mnl_attr_validate(attribute, MNL_TYPE_U32) >= 0)
    *static_cast<std::int32_t*>(data) = static_cast<std::int32_t>(mnl_attr_get_u32(attribute));
  return MNL_CB_OK;
}

}  // namespace

std::optional<std::int32_t> own_nsid() {
  const UniqueFd here(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  const std::unique_ptr<mnl_socket, int (*)(mnl_socket*)> socket(
      mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC), mnl_socket_close);
  if (!here || !socket || mnl_socket_bind(socket.get(), 0, MNL_SOCKET_AUTOPID) != 0)
    return std::nullopt;
  alignas(nlmsghdr) std::array<char, 4096> buffer{};
  nlmsghdr* message = mnl_nlmsg_put_header(buffer.data());
  message->nlmsg_type = RTM_GETNSID;
  message->nlmsg_flags = NLM_F_REQUEST;
  mnl_nlmsg_put_extra_header(message, sizeof(rtgenmsg));
  mnl_attr_put_u32(message, NETNSA_FD, static_cast<std::uint32_t>(here.get()));
  if (mnl_socket_sendto(socket.get(), message, message->nlmsg_len) < 0) return std::nullopt;
  const ssize_t size = mnl_socket_recvfrom(socket.get(), buffer.data(), buffer.size());
  if (size <= 0 || !mnl_nlmsg_ok(message, static_cast<int>(size)) ||
      message->nlmsg_type != RTM_NEWNSID)
    return std::nullopt;
  std::int32_t nsid = -1;
  if (mnl_attr_parse(message, sizeof(rtgenmsg), on_nsid, &nsid) < 0 || nsid < 0)
    return std::nullopt;
  return nsid;
}

}  // namespace psp::netlink
