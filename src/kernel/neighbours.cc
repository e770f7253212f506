// SPDX-License-Identifier: Apache-2.0
//
// By rtnetlink: to delete a neighbour that has no address yet is to drop what waits for it. A
// packet that is between psp_sock_out and that queue at this moment is waited for first:
// membarrier(2) returns once every processor has been somewhere else. Where the kernel lacks that,
// a pause that is longer than any such way has to do. Asked for before psp_egress is taken off, in
// the namespace of the netdev.
#include "neighbours.hh"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <linux/membarrier.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <vector>

#include "base/netlink_socket.hh"

namespace psp::kernel {
namespace {

// Where the kernel has no membarrier (with nohz_full): longer than a packet is on its way.
constexpr useconds_t kOnTheirWayUs = 20'000;

// wait_for_senders returns once every processor has left the code that it was in.
void wait_for_senders() {
  if (::syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) != 0) ::usleep(kOnTheirWayUs);
}

struct Neighbour {
  ndmsg head{};
  std::vector<char> address{};
};

std::unexpected<std::string> failed(std::uint32_t ifindex, const char* what) {
  return std::unexpected(fmt::format(
      "network device {}: cannot {} the neighbours whose address is being asked for: {}", ifindex,
      what, std::strerror(errno)));
}

bool unresolved(const NetlinkSocket& nl, std::uint32_t ifindex, std::vector<Neighbour>& all) {
  std::vector<char> room(32768);
  mnl_attr_put_u32(start_request<ndmsg>(room, RTM_GETNEIGH, NLM_F_DUMP).message, NDA_IFINDEX,
                   ifindex);
  return nl.dump(room, [&](const nlmsghdr& message) {
    if (message.nlmsg_type != RTM_NEWNEIGH || message.nlmsg_len < NLMSG_LENGTH(sizeof(ndmsg)))
      return;
    Neighbour one;
    std::memcpy(&one.head, mnl_nlmsg_get_payload(&message), sizeof one.head);
    if (one.head.ndm_ifindex != static_cast<int>(ifindex) || one.head.ndm_state != NUD_INCOMPLETE)
      return;
    for_each_attribute(&message, sizeof(ndmsg), [&](const nlattr* attribute) {
      const auto* octets = static_cast<const char*>(mnl_attr_get_payload(attribute));
      if (mnl_attr_get_type(attribute) == NDA_DST)
        one.address.assign(octets, octets + mnl_attr_get_payload_len(attribute));
    });
    all.push_back(std::move(one));
  });
}

// forget deletes one. That it is not there any more is as good.
bool forget(const NetlinkSocket& nl, const Neighbour& neighbour) {
  std::vector<char> room(4096);
  const auto [request, head] = start_request<ndmsg>(room, RTM_DELNEIGH, NLM_F_ACK);
  *head = neighbour.head;
  mnl_attr_put(request, NDA_DST, neighbour.address.size(), neighbour.address.data());
  return nl.exchange(room) || errno == ENOENT;
}

}  // namespace

std::expected<void, std::string> drop_waiting_packets(std::uint32_t ifindex) {
  wait_for_senders();
  const NetlinkSocket nl(NETLINK_ROUTE);
  // Twice: a list that changes while it is told can lack one. What comes later is nothing of ours.
  for (int i = 0; i < 2; i++) {
    std::vector<Neighbour> all;
    if (!nl || !unresolved(nl, ifindex, all)) return failed(ifindex, "list");
    for (const Neighbour& neighbour : all)
      if (!forget(nl, neighbour)) return failed(ifindex, "forget");
  }
  return {};
}

}  // namespace psp::kernel
