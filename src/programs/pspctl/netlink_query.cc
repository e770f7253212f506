// SPDX-License-Identifier: Apache-2.0
//
// Routes, netdevs, neighbours, the tc filters of a netdev. Each request is a Query: a socket of its
// own, one question, all of the answer.
//
// An answer is read by attributes that may be missing: another kernel may tell more or less. A
// route of one family can have a gateway of the other (RTA_VIA). A neighbour counts only if its
// link address is known and has six octets; one that has failed or is still being asked for is
// none.
#include "netlink_query.hh"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <linux/if.h>
#include <linux/neighbour.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <map>
#include <netinet/in.h>
#include <string_view>

#include "base/netlink_socket.hh"

namespace psp::ctl {

namespace {

// Query is a request, with room for the answer.
template <typename Header>
class Query {
 public:
  explicit Query(std::uint16_t type, unsigned flags = 0)
      : room_(32768), request_(start_request<Header>(room_, type, flags)) {}
  Query(Query&&) = default;  // a copy would have its request in the other's room
  Header* operator->() const { return request_.header; }
  nlmsghdr* message() const { return request_.message; }

  // ask shows each message of the answer. Returns 0 or an errno.
  template <typename Visit>
  int ask(Visit visit) {
    const NetlinkSocket nl(NETLINK_ROUTE);
    if (!nl) return errno;
    if ((request_.message->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP)
      return nl.dump(room_, visit) ? 0 : errno;
    if (!nl.exchange(room_)) return errno;
    if (request_.message->nlmsg_type != NLMSG_ERROR) visit(*request_.message);
    return 0;
  }

 private:
  std::vector<char> room_;
  Request<Header> request_;
};

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

void note_program(const nlmsghdr& message, std::vector<std::string>& names) {
  Attributes filter, options;
  mnl_attr_parse(&message, sizeof(tcmsg), collect, &filter);
  const nlattr* kind = find(filter, TCA_KIND);
  const nlattr* nest = find(filter, TCA_OPTIONS);
  if (kind == nullptr || nest == nullptr || std::string_view(mnl_attr_get_str(kind)) != "bpf")
    return;
  mnl_attr_parse_nested(nest, collect, &options);
  if (const nlattr* name = find(options, TCA_BPF_NAME)) names.emplace_back(mnl_attr_get_str(name));
}

// get_link asks for one netdev; `query` already says which.
template <typename Visit>
int get_link(Query<ifinfomsg>& query, std::optional<std::int32_t> nsid, Visit visit) {
  if (nsid)
    mnl_attr_put_u32(query.message(), IFLA_TARGET_NETNSID, static_cast<std::uint32_t>(*nsid));
  return query.ask(visit);
}

}  // namespace

std::expected<std::uint32_t, int> link_index(const std::string& name,
                                             std::optional<std::int32_t> nsid) {
  if (name.empty() || name.size() >= IFNAMSIZ) return std::unexpected(ENODEV);
  Query<ifinfomsg> query(RTM_GETLINK);
  mnl_attr_put_strz(query.message(), IFLA_IFNAME, name.c_str());
  std::uint32_t ifindex = 0;
  const int error = get_link(query, nsid, [&](const nlmsghdr& message) {
    ifindex = static_cast<std::uint32_t>(
        static_cast<const ifinfomsg*>(mnl_nlmsg_get_payload(&message))->ifi_index);
  });
  if (error != 0) return std::unexpected(error);
  return ifindex;
}

std::expected<std::string, int> link_name(std::uint32_t ifindex, std::optional<std::int32_t> nsid) {
  Query<ifinfomsg> query(RTM_GETLINK);
  query->ifi_index = static_cast<int>(ifindex);
  std::string name;
  const int error = get_link(query, nsid, [&](const nlmsghdr& message) {
    Attributes attributes;
    mnl_attr_parse(&message, sizeof(ifinfomsg), collect, &attributes);
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

Route read_route(const nlmsghdr& message) {
  Attributes attributes;
  mnl_attr_parse(&message, sizeof(rtmsg), collect, &attributes);
  Route route;
  route.local = static_cast<const rtmsg*>(mnl_nlmsg_get_payload(&message))->rtm_type == RTN_LOCAL;
  if (const nlattr* oif = find(attributes, RTA_OIF)) route.ifindex = mnl_attr_get_u32(oif);
  if (const nlattr* gateway = find(attributes, RTA_GATEWAY)) route.gateway = octets_of(gateway);
  if (const nlattr* via = find(attributes, RTA_VIA))  // of the other family
    route.gateway = octets_of(via, sizeof(rtvia));
  return route;
}

// about_neighbour is one about that neighbour.
Query<ndmsg> about_neighbour(std::uint16_t type, unsigned flags, std::uint32_t ifindex,
                             const std::vector<std::uint8_t>& address) {
  Query<ndmsg> query(type, flags);
  query->ndm_family = address.size() == 4 ? AF_INET : AF_INET6;
  query->ndm_ifindex = static_cast<int>(ifindex);
  if (type == RTM_NEWNEIGH) query->ndm_flags = NTF_USE;
  mnl_attr_put(query.message(), NDA_DST, address.size(), address.data());
  return query;
}

}  // namespace

std::expected<Route, int> find_route(const sockaddr_storage& address) {
  Query<rtmsg> route(RTM_GETROUTE);
  route->rtm_family = static_cast<unsigned char>(address.ss_family);
  if (address.ss_family == AF_INET6) {
    const auto& peer = reinterpret_cast<const sockaddr_in6&>(address);
    route->rtm_dst_len = 128;
    mnl_attr_put(route.message(), RTA_DST, sizeof peer.sin6_addr, &peer.sin6_addr);
    if (peer.sin6_scope_id != 0) mnl_attr_put_u32(route.message(), RTA_OIF, peer.sin6_scope_id);
  } else {
    const auto& peer = reinterpret_cast<const sockaddr_in&>(address);
    route->rtm_dst_len = 32;
    mnl_attr_put(route.message(), RTA_DST, sizeof peer.sin_addr, &peer.sin_addr);
  }
  Route found;
  const int error = route.ask([&](const nlmsghdr& message) { found = read_route(message); });
  if (error != 0) return std::unexpected(error);
  if (found.ifindex == 0) return std::unexpected(ENETUNREACH);
  return found;
}

std::optional<std::array<std::uint8_t, 6>> find_neighbour(
    std::uint32_t ifindex, const std::vector<std::uint8_t>& address) {
  std::optional<std::array<std::uint8_t, 6>> found;
  about_neighbour(RTM_GETNEIGH, 0, ifindex, address).ask([&](const nlmsghdr& message) {
    constexpr unsigned kUseless = NUD_INCOMPLETE | NUD_FAILED | NUD_NONE;
    const auto* neighbour = static_cast<const ndmsg*>(mnl_nlmsg_get_payload(&message));
    Attributes attributes;
    mnl_attr_parse(&message, sizeof(ndmsg), collect, &attributes);
    const nlattr* link = find(attributes, NDA_LLADDR);
    if ((neighbour->ndm_state & kUseless) != 0 || link == nullptr ||
        mnl_attr_get_payload_len(link) != 6)
      return;
    std::memcpy(found.emplace().data(), mnl_attr_get_payload(link), 6);
  });
  return found;
}

int ask_neighbour(std::uint32_t ifindex, const std::vector<std::uint8_t>& address) {
  return about_neighbour(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_ACK, ifindex, address)
      .ask([](const nlmsghdr&) {});
}

std::vector<std::string> tc_programs(std::uint32_t ifindex) {
  std::vector<std::string> names;
  for (const unsigned hook : {TC_H_MIN_INGRESS, TC_H_MIN_EGRESS}) {
    Query<tcmsg> filters(RTM_GETTFILTER, NLM_F_DUMP);
    filters->tcm_ifindex = static_cast<int>(ifindex);
    filters->tcm_parent = TC_H_MAKE(TC_H_CLSACT, hook);
    filters.ask([&](const nlmsghdr& message) { note_program(message, names); });
  }
  return names;
}

}  // namespace psp::ctl
