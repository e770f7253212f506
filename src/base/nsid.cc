// SPDX-License-Identifier: Apache-2.0
//
// Asked by RTM_GETNSID, on a socket that lives for the one request: nobody asks often. The socket
// is of the calling thread's namespace, and so are the numbers. The kernel answers -1 for a
// namespace that has none, which is no error; where an answer lacks the attribute it counts as the
// same.
#include "nsid.hh"

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>

#include "netlink_socket.hh"
#include "unique_fd.hh"

namespace psp {
namespace {

using Room = std::array<char, 4096>;

// ask is about the namespace behind `fd`; what is answered stands in `room` then. Returns 0 or an
// errno.
int ask(Room& room, std::uint16_t type, unsigned flags, int fd) {
  nlmsghdr* const message = start_request<rtgenmsg>(room, type, flags).message;
  mnl_attr_put_u32(message, NETNSA_FD, static_cast<std::uint32_t>(fd));
  if (type == RTM_NEWNSID) mnl_attr_put_u32(message, NETNSA_NSID, ~0u);  // any that is free
  const NetlinkSocket nl(NETLINK_ROUTE);
  return nl && nl.exchange(room) ? 0 : errno;
}

}  // namespace

std::expected<std::int32_t, int> nsid_of(int fd) {
  alignas(nlmsghdr) Room room{};
  if (const int error = ask(room, RTM_GETNSID, 0, fd); error != 0) return std::unexpected(error);
  const auto* answer = reinterpret_cast<const nlmsghdr*>(room.data());
  std::int32_t nsid = -1;
  if (answer->nlmsg_type != RTM_NEWNSID) return nsid;
  for_each_attribute(answer, sizeof(rtgenmsg), [&](const nlattr* attribute) {
    if (mnl_attr_get_type(attribute) == NETNSA_NSID &&
        mnl_attr_validate(attribute, MNL_TYPE_U32) >= 0)
      nsid = static_cast<std::int32_t>(mnl_attr_get_u32(attribute));
  });
  return nsid;
}

int assign_nsid(int fd) {
  alignas(nlmsghdr) Room room{};
  return ask(room, RTM_NEWNSID, NLM_F_ACK, fd);
}

std::optional<std::int32_t> own_nsid() {
  const UniqueFd here(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!here) return std::nullopt;
  const auto nsid = nsid_of(here.get());
  return nsid && *nsid >= 0 ? std::optional(*nsid) : std::nullopt;
}

}  // namespace psp
