// SPDX-License-Identifier: Apache-2.0
//
// rtnetlink by libmnl: routes, netdevs, namespace numbers, the tc filters of a netdev.
#include "netlink_query.hh"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <libmnl/libmnl.h>
#include <linux/if.h>
#include <linux/neighbour.h>
#include <linux/net_namespace.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <map>
#include <memory>
#include <netinet/in.h>
#include <string_view>

namespace psp::ctl {

namespace {

using Buffer = std::array<char, 32768>;
using Visitor = std::function<void(const nlmsghdr*)>;

// query sends one request and shows each message of the answer. Returns 0 or an errno.
int query(nlmsghdr* request, const Visitor& visit) {
  const std::unique_ptr<mnl_socket, int (*)(mnl_socket*)> socket(
      mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC), mnl_socket_close);
  if (!socket || mnl_socket_bind(socket.get(), 0, MNL_SOCKET_AUTOPID) < 0) return errno;
  if (mnl_socket_sendto(socket.get(), request, request->nlmsg_len) < 0) return errno;
  const auto callback = [](const nlmsghdr* message, void* data) {
    (*static_cast<const Visitor*>(data))(message);
    return MNL_CB_OK;
  };
  const auto buffer = std::make_unique<Buffer>();
  const bool dump = (request->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
  while (true) {
    const ssize_t size = mnl_socket_recvfrom(socket.get(), buffer->data(), buffer->size());
    if (size < 0) return errno;
    const int more = mnl_cb_run(buffer->data(), static_cast<std::size_t>(size), 0, 0, callback,
                                const_cast<Visitor*>(&visit));
    if (more < 0) return errno;
    if (more == MNL_CB_STOP || !dump) return 0;
  }
}

// Attributes are those of one level, by type. libmnl's loop macros are C only.
using Attributes = std::map<unsigned, const nlattr*>;

int collect(const nlattr* attribute, void* data) {
  (*static_cast<Attributes*>(data))[mnl_attr_get_type(attribute)] = attribute;
  return MNL_CB_OK;
}

const nlattr* find(const Attributes& attributes, unsigned type) {
  const auto found = attributes.find(type);
  return found == attributes.end() ? nullptr : found->second;
}

void note_program(const nlmsghdr* message, std::vector<std::string>& names) {
  Attributes filter, options;
  mnl_attr_parse(message, sizeof(tcmsg), collect, &filter);
  const nlattr* kind = find(filter, TCA_KIND);
  const nlattr* nest = find(filter, TCA_OPTIONS);
  if (kind == nullptr || nest == nullptr || std::string_view(mnl_attr_get_str(kind)) != "bpf")
    return;
  mnl_attr_parse_nested(nest, collect, &options);
  if (const nlattr* name = find(options, TCA_BPF_NAME)) names.emplace_back(mnl_attr_get_str(name));
}

// Request is a buffer with the message that is being put into it.
struct Request {
  template <typename Header>
  Header* start(std::uint16_t type, std::uint16_t flags) {
    message = mnl_nlmsg_put_header(octets.data());
    message->nlmsg_type = type;
    message->nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
    return static_cast<Header*>(mnl_nlmsg_put_extra_header(message, sizeof(Header)));
  }
  alignas(nlmsghdr) std::array<char, 256> octets{};
  nlmsghdr* message = nullptr;
};

// get_link asks for one netdev; `request` already says which.
int get_link(Request& request, std::optional<std::int32_t> nsid, const Visitor& visit) {
  if (nsid)
    mnl_attr_put_u32(request.message, IFLA_TARGET_NETNSID, static_cast<std::uint32_t>(*nsid));
  return query(request.message, visit);
}

}  // namespace

std::expected<std::int32_t, int> netns_id(int fd) {
  Request request;
  request.start<rtgenmsg>(RTM_GETNSID, 0)->rtgen_family = AF_UNSPEC;
  mnl_attr_put_u32(request.message, NETNSA_FD, static_cast<std::uint32_t>(fd));
  std::int32_t nsid = -1;
  const int error = query(request.message, [&](const nlmsghdr* message) {
    Attributes attributes;
    mnl_attr_parse(message, sizeof(rtgenmsg), collect, &attributes);
    if (const nlattr* attribute = find(attributes, NETNSA_NSID))
      nsid = static_cast<std::int32_t>(mnl_attr_get_u32(attribute));
  });
  if (error != 0) return std::unexpected(error);
  return nsid;
}

int assign_netns_id(int fd) {
  Request request;
  request.start<rtgenmsg>(RTM_NEWNSID, NLM_F_ACK)->rtgen_family = AF_UNSPEC;
  mnl_attr_put_u32(request.message, NETNSA_FD, static_cast<std::uint32_t>(fd));
  mnl_attr_put_u32(request.message, NETNSA_NSID, UINT32_MAX);  // -1: any free one
  return query(request.message, {[](const nlmsghdr*) {}});
}

std::expected<std::uint32_t, int> link_index(const std::string& name,
                                             std::optional<std::int32_t> nsid) {
  if (name.empty() || name.size() >= IFNAMSIZ) return std::unexpected(ENODEV);
  Request request;
  request.start<ifinfomsg>(RTM_GETLINK, 0)->ifi_family = AF_UNSPEC;
  mnl_attr_put_strz(request.message, IFLA_IFNAME, name.c_str());
  std::uint32_t ifindex = 0;
  const int error = get_link(request, nsid, [&](const nlmsghdr* message) {
    ifindex = static_cast<std::uint32_t>(
        static_cast<const ifinfomsg*>(mnl_nlmsg_get_payload(message))->ifi_index);
  });
  if (error != 0) return std::unexpected(error);
  return ifindex;
}

std::expected<std::string, int> link_name(std::uint32_t ifindex, std::optional<std::int32_t> nsid) {
  Request request;
  request.start<ifinfomsg>(RTM_GETLINK, 0)->ifi_index = static_cast<int>(ifindex);
  std::string name;
  const int error = get_link(request, nsid, [&](const nlmsghdr* message) {
    Attributes attributes;
    mnl_attr_parse(message, sizeof(ifinfomsg), collect, &attributes);
    if (const nlattr* attribute = find(attributes, IFLA_IFNAME)) name = mnl_attr_get_str(attribute);
  });
  if (error != 0) return std::unexpected(error);
  return name;
}

namespace {

std::vector<std::uint8_t> octets_of(const nlattr* attribute, std::size_t skip = 0) {
  const auto* octets = static_cast<const std::uint8_t*>(mnl_attr_get_payload(attribute));
  const std::size_t size = mnl_attr_get_payload_len(attribute);
  return {octets + std::min(skip, size), octets + size};
}

Route read_route(const nlmsghdr* message) {
  Attributes attributes;
  mnl_attr_parse(message, sizeof(rtmsg), collect, &attributes);
  Route route;
  route.local = static_cast<const rtmsg*>(mnl_nlmsg_get_payload(message))->rtm_type == RTN_LOCAL;
  if (const nlattr* oif = find(attributes, RTA_OIF)) route.ifindex = mnl_attr_get_u32(oif);
  if (const nlattr* gateway = find(attributes, RTA_GATEWAY)) route.gateway = octets_of(gateway);
  if (const nlattr* via = find(attributes, RTA_VIA))  // of the other family
    route.gateway = octets_of(via, sizeof(rtvia));
  return route;
}

// neighbour_request is about that neighbour.
void neighbour_request(Request& request, std::uint16_t type, std::uint16_t flags,
                       std::uint32_t ifindex, const std::vector<std::uint8_t>& address) {
  auto* neighbour = request.start<ndmsg>(type, flags);
  neighbour->ndm_family = address.size() == 4 ? AF_INET : AF_INET6;
  neighbour->ndm_ifindex = static_cast<int>(ifindex);
  if (type == RTM_NEWNEIGH) neighbour->ndm_flags = NTF_USE;
  mnl_attr_put(request.message, NDA_DST, address.size(), address.data());
}

}  // namespace

std::expected<Route, int> find_route(const sockaddr_storage& address) {
  Request request;
  auto* route = request.start<rtmsg>(RTM_GETROUTE, 0);
  route->rtm_family = static_cast<unsigned char>(address.ss_family);
  if (address.ss_family == AF_INET6) {
    const auto& peer = reinterpret_cast<const sockaddr_in6&>(address);
    route->rtm_dst_len = 128;
    mnl_attr_put(request.message, RTA_DST, sizeof peer.sin6_addr, &peer.sin6_addr);
    if (peer.sin6_scope_id != 0) mnl_attr_put_u32(request.message, RTA_OIF, peer.sin6_scope_id);
  } else {
    const auto& peer = reinterpret_cast<const sockaddr_in&>(address);
    route->rtm_dst_len = 32;
    mnl_attr_put(request.message, RTA_DST, sizeof peer.sin_addr, &peer.sin_addr);
  }
  Route found;
  const int error =
      query(request.message, [&](const nlmsghdr* message) { found = read_route(message); });
  if (error != 0) return std::unexpected(error);
  if (found.ifindex == 0) return std::unexpected(ENETUNREACH);
  return found;
}

std::optional<std::array<std::uint8_t, 6>> find_neighbour(
    std::uint32_t ifindex, const std::vector<std::uint8_t>& address) {
  Request request;
  neighbour_request(request, RTM_GETNEIGH, 0, ifindex, address);
  std::optional<std::array<std::uint8_t, 6>> found;
  query(request.message, [&](const nlmsghdr* message) {
    constexpr unsigned kUseless = NUD_INCOMPLETE | NUD_FAILED | NUD_NONE;
    const auto* neighbour = static_cast<const ndmsg*>(mnl_nlmsg_get_payload(message));
    Attributes attributes;
    mnl_attr_parse(message, sizeof(ndmsg), collect, &attributes);
    const nlattr* link = find(attributes, NDA_LLADDR);
    if ((neighbour->ndm_state & kUseless) != 0 || link == nullptr ||
        mnl_attr_get_payload_len(link) != 6)
      return;
    std::memcpy(found.emplace().data(), mnl_attr_get_payload(link), 6);
  });
  return found;
}

int ask_neighbour(std::uint32_t ifindex, const std::vector<std::uint8_t>& address) {
  Request request;
  neighbour_request(request, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_ACK, ifindex, address);
  return query(request.message, {[](const nlmsghdr*) {}});
}

std::vector<std::string> tc_programs(std::uint32_t ifindex) {
  std::vector<std::string> names;
  for (const unsigned hook : {TC_H_MIN_INGRESS, TC_H_MIN_EGRESS}) {
    alignas(nlmsghdr) std::array<char, 256> octets{};
    nlmsghdr* request = mnl_nlmsg_put_header(octets.data());
    request->nlmsg_type = RTM_GETTFILTER;
    request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    auto* filter = static_cast<tcmsg*>(mnl_nlmsg_put_extra_header(request, sizeof(tcmsg)));
    filter->tcm_family = AF_UNSPEC;
    filter->tcm_ifindex = static_cast<int>(ifindex);
    filter->tcm_parent = TC_H_MAKE(TC_H_CLSACT, hook);
    query(request, [&](const nlmsghdr* message) { note_program(message, names); });
  }
  return names;
}

}  // namespace psp::ctl
