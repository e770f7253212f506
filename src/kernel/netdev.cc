// SPDX-License-Identifier: Apache-2.0
//
// By rtnetlink, but for features and what else has only an ioctl. Each request is a socket of its
// own in the namespace of the calling thread: there are few.
//
// Threading: see netdev.hh.
#include "netdev.hh"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <linux/ethtool.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <memory>
#include <net/if.h>
#include <net/if_arp.h>
#include <optional>
#include <string_view>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <vector>

#include "base/ifreq.hh"
#include "base/netlink_socket.hh"
#include "base/socket_options.hh"
#include "base/unique_fd.hh"

#include "link_facts.hh"

namespace psp::kernel {
namespace {

UniqueFd ioctl_socket() { return UniqueFd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)); }

std::unexpected<std::string> failed(const std::string& name, const char* what) {
  return std::unexpected(fmt::format("{}: cannot {}: {}", name, what, std::strerror(errno)));
}

// feature_index finds the number of a feature among the device's names.
std::optional<std::uint32_t> feature_index(int fd, ifreq& request, const std::string& feature,
                                           std::uint32_t& count) {
  alignas(ethtool_sset_info)
      std::uint8_t info_octets[sizeof(ethtool_sset_info) + sizeof count] = {};
  auto* info = reinterpret_cast<ethtool_sset_info*>(info_octets);
  info->cmd = ETHTOOL_GSSET_INFO;
  info->sset_mask = 1ull << ETH_SS_FEATURES;
  request.ifr_data = reinterpret_cast<char*>(info);
  if (::ioctl(fd, SIOCETHTOOL, &request) < 0 || info->sset_mask == 0) return std::nullopt;
  count = info->data[0];

  std::vector<std::uint8_t> buffer(sizeof(ethtool_gstrings) + count * ETH_GSTRING_LEN);
  auto* strings = reinterpret_cast<ethtool_gstrings*>(buffer.data());
  strings->cmd = ETHTOOL_GSTRINGS;
  strings->string_set = ETH_SS_FEATURES;
  strings->len = count;
  request.ifr_data = reinterpret_cast<char*>(strings);
  if (::ioctl(fd, SIOCETHTOOL, &request) < 0) return std::nullopt;
  for (std::uint32_t i = 0; i < count; i++) {
    const char* name = reinterpret_cast<const char*>(strings->data) + i * ETH_GSTRING_LEN;
    if (feature == std::string(name, ::strnlen(name, ETH_GSTRING_LEN))) return i;
  }
  return std::nullopt;
}

}  // namespace

std::expected<Netdev, std::string> find_netdev(const std::string& name) {
  const std::uint32_t ifindex = name.size() < IFNAMSIZ ? ::if_nametoindex(name.c_str()) : 0;
  if (ifindex == 0)
    return std::unexpected(
        fmt::format("there is no network device {} in this network namespace", name));
  return find_netdev(ifindex);
}

namespace {

std::unexpected<std::string> failed_about(std::uint32_t ifindex, const char* what) {
  return failed(fmt::format("network device {}", ifindex), what);
}

nlmsghdr* link_message(std::vector<char>& buffer, std::uint16_t type, std::uint32_t ifindex) {
  const auto [message, link] =
      start_request<ifinfomsg>(buffer, type, type == RTM_GETLINK ? 0 : NLM_F_ACK);
  link->ifi_index = static_cast<int>(ifindex);
  return message;
}

// ask_link asks for a device of the current namespace by number: while it is renamed it has no name
// to ask by for a moment. `visit(link, attribute)` sees each attribute. False: it is gone.
template <typename Visit>
std::expected<bool, std::string> ask_link(std::uint32_t ifindex, std::uint64_t& netns,
                                          Visit visit) {
  const NetlinkSocket nl(NETLINK_ROUTE);
  netns = nl ? netns_cookie(nl.fd()) : 0;
  if (netns == 0) return failed_about(ifindex, "ask the kernel");
  std::vector<char> buffer(32768);
  const nlmsghdr* message = link_message(buffer, RTM_GETLINK, ifindex);
  if (!nl.exchange(buffer)) {
    if (errno == ENODEV) return false;
    return failed_about(ifindex, "ask the kernel");
  }
  const auto* link = static_cast<const ifinfomsg*>(mnl_nlmsg_get_payload(message));
  for_each_attribute(message, sizeof(ifinfomsg),
                     [&](const nlattr* attribute) { visit(*link, attribute); });
  return true;
}

}  // namespace

std::expected<Netdev, std::string> find_netdev(std::uint32_t ifindex) {
  auto netdev = look_up(ifindex);
  if (!netdev) return std::unexpected(netdev.error());
  if (!*netdev) return std::unexpected(fmt::format("network device {} is gone", ifindex));
  if (!(*netdev)->unfit.empty()) return std::unexpected((*netdev)->unfit);
  return std::move(**netdev);
}

std::expected<std::optional<Netdev>, std::string> look_up(std::uint32_t ifindex) {
  LinkFacts facts;
  std::uint64_t netns = 0;
  const auto there = ask_link(ifindex, netns, [&](const ifinfomsg& head, const nlattr* attribute) {
    facts.read(head, attribute);
  });
  if (!there) return std::unexpected(there.error());
  if (!*there) return std::nullopt;
  return Netdev{.netns = netns,
                .ifindex = ifindex,
                .name = facts.name,
                .mac = facts.mac,
                .mtu = facts.mtu,
                .port_of = port_of(facts),
                .shares_address_with = shares_address_with(facts),
                .lower_elsewhere = facts.lower_elsewhere,
                .unfit = unfit(facts)};
}

bool share_address(const Netdev& one, const Netdev& other) {
  const auto lies_on = [](const Netdev& upper, const Netdev& lower) {
    return upper.shares_address_with != 0 && upper.shares_address_with == lower.ifindex &&
           upper.lower_elsewhere == (upper.netns != lower.netns);
  };
  return lies_on(one, other) || lies_on(other, one);
}

std::expected<std::optional<LinkSettings>, std::string> read_link(std::uint32_t ifindex) {
  LinkSettings link;
  std::uint64_t netns = 0;
  const auto there = ask_link(ifindex, netns, [&](const ifinfomsg& head, const nlattr* attribute) {
    link.up = (head.ifi_flags & (IFF_UP | IFF_NOARP)) == (IFF_UP | IFF_NOARP);
    const std::uint16_t type = mnl_attr_get_type(attribute);
    if (type == IFLA_IFNAME) link.name = mnl_attr_get_str(attribute);
    if (type == IFLA_MTU) link.mtu = mnl_attr_get_u32(attribute);
    if (type == IFLA_TXQLEN) link.queue_length = mnl_attr_get_u32(attribute);
  });
  if (!there) return std::unexpected(there.error());
  return *there ? std::optional(std::move(link)) : std::nullopt;
}

std::expected<void, std::string> set_link(std::uint32_t ifindex, const LinkSettings& link) {
  const NetlinkSocket nl(NETLINK_ROUTE);
  if (!nl) return failed(link.name, "ask the kernel");
  std::vector<char> buffer(4096);
  nlmsghdr* message = link_message(buffer, RTM_NEWLINK, ifindex);
  auto* head = static_cast<ifinfomsg*>(mnl_nlmsg_get_payload(message));
  head->ifi_change = IFF_UP | IFF_NOARP;
  head->ifi_flags = link.up ? IFF_UP | IFF_NOARP : IFF_NOARP;
  mnl_attr_put_strz(message, IFLA_IFNAME, link.name.c_str());
  mnl_attr_put_u32(message, IFLA_MTU, link.mtu);
  mnl_attr_put_u32(message, IFLA_TXQLEN, link.queue_length);
  if (!nl.exchange(buffer)) return failed(link.name, "set name, MTU, queue and state");
  return {};
}

std::expected<void, std::string> move_link(const std::string& from, int netns,
                                           std::uint32_t ifindex, const std::string& name) {
  const NetlinkSocket nl(NETLINK_ROUTE);
  const std::uint32_t there = ::if_nametoindex(from.c_str());
  if (!nl || there == 0) return failed(from, "ask the kernel");
  std::vector<char> buffer(4096);
  nlmsghdr* message = link_message(buffer, RTM_NEWLINK, there);
  mnl_attr_put_u32(message, IFLA_NET_NS_FD, static_cast<std::uint32_t>(netns));
  if (ifindex != 0) mnl_attr_put_u32(message, IFLA_NEW_IFINDEX, ifindex);
  mnl_attr_put_strz(message, IFLA_IFNAME, name.c_str());
  if (!nl.exchange(buffer)) return failed(from, "move it back to its network namespace");
  return {};
}

std::optional<unsigned> tap_queues(std::uint32_t ifindex) {
  std::uint64_t netns = 0;
  std::optional<unsigned> attached, detached;
  const auto count = [&](const nlattr* of_tap) {
    const std::uint16_t type = mnl_attr_get_type(of_tap);
    if (type == IFLA_TUN_NUM_QUEUES) attached = mnl_attr_get_u32(of_tap);
    if (type == IFLA_TUN_NUM_DISABLED_QUEUES) detached = mnl_attr_get_u32(of_tap);
  };
  const auto read = [&](const ifinfomsg&, const nlattr* attribute) {
    if (mnl_attr_get_type(attribute) != IFLA_LINKINFO) return;
    for_each_attribute(attribute, [&](const nlattr* info) {
      if (mnl_attr_get_type(info) == IFLA_INFO_DATA) for_each_attribute(info, count);
    });
  };
  const auto there = ask_link(ifindex, netns, read);
  if (!there || !*there || !attached || !detached) return std::nullopt;
  return *attached + *detached;
}

namespace {

// Feature is where a feature stands among the device's.
struct Feature {
  UniqueFd fd;
  ifreq request{};
  std::size_t word = 0, words = 0;
  std::uint32_t bit = 0;
};

std::expected<Feature, std::string> find_feature(const std::string& netdev,
                                                 const std::string& feature) {
  Feature found{ioctl_socket(), request_for(netdev)};
  std::uint32_t count = 0;
  const auto index = feature_index(found.fd.get(), found.request, feature, count);
  if (!index) return std::unexpected(fmt::format("{} has no feature {}", netdev, feature));
  found.word = *index / 32;
  found.words = (count + 31) / 32;
  found.bit = 1u << *index % 32;
  return found;
}

}  // namespace

std::expected<bool, std::string> has_feature(const std::string& netdev,
                                             const std::string& feature) {
  auto where = find_feature(netdev, feature);
  if (!where) return std::unexpected(where.error());
  std::vector<std::uint8_t> get(sizeof(ethtool_gfeatures) +
                                where->words * sizeof(ethtool_get_features_block));
  auto* have = reinterpret_cast<ethtool_gfeatures*>(get.data());
  have->cmd = ETHTOOL_GFEATURES;
  have->size = static_cast<std::uint32_t>(where->words);
  where->request.ifr_data = reinterpret_cast<char*>(have);
  if (::ioctl(where->fd.get(), SIOCETHTOOL, &where->request) < 0)
    return failed(netdev, "read its features");
  return (have->features[where->word].active & where->bit) != 0;
}

std::expected<void, std::string> set_feature(const std::string& netdev, const std::string& feature,
                                             bool on) {
  auto where = find_feature(netdev, feature);
  if (!where) return std::unexpected(where.error());
  std::vector<std::uint8_t> set(sizeof(ethtool_sfeatures) +
                                where->words * sizeof(ethtool_set_features_block));
  auto* want = reinterpret_cast<ethtool_sfeatures*>(set.data());
  want->cmd = ETHTOOL_SFEATURES;
  want->size = static_cast<std::uint32_t>(where->words);
  want->features[where->word].valid = where->bit;
  want->features[where->word].requested = on ? where->bit : 0;
  where->request.ifr_data = reinterpret_cast<char*>(want);
  if (::ioctl(where->fd.get(), SIOCETHTOOL, &where->request) != 0)
    return failed(netdev, "change its features");
  return {};
}

namespace {

// Filter is one in the kernel's list; the order of the list is the order in which they run.
struct Filter {
  std::uint32_t priority = 0, handle = 0;
};

// dump_tc asks for all filters at `parent`, or all qdiscs, of a device; `visit(message, tc)` sees
// each. False if the kernel does not say.
template <typename Visit>
[[nodiscard]] bool dump_tc(std::uint16_t type, std::uint32_t ifindex, std::uint32_t parent,
                           Visit visit) {
  const NetlinkSocket nl(NETLINK_ROUTE);
  if (!nl) return false;
  std::vector<char> buffer(32768);
  tcmsg* const tc = start_request<tcmsg>(buffer, type, NLM_F_DUMP).header;
  tc->tcm_ifindex = static_cast<int>(ifindex);
  tc->tcm_parent = parent;
  return nl.dump(buffer, [&](const nlmsghdr& message) {
    visit(&message, static_cast<const tcmsg*>(mnl_nlmsg_get_payload(&message)));
  });
}

std::unexpected<std::string> untold(const char* what) {
  return std::unexpected(
      fmt::format("the kernel does not tell which {} there are: {}", what, std::strerror(errno)));
}

// filters_at lists the filters at one side of the clsact.
std::expected<std::vector<Filter>, std::string> filters_at(std::uint32_t ifindex,
                                                           std::uint32_t parent) {
  std::vector<Filter> filters;
  const auto note = [&filters](const nlmsghdr*, const tcmsg* filter) {
    if (filter->tcm_handle != 0)  // 0: the classifier itself
      filters.push_back({TC_H_MAJ(filter->tcm_info) >> 16, filter->tcm_handle});
  };
  if (!dump_tc(RTM_GETTFILTER, ifindex, parent, note)) return untold("tc filters");
  return filters;
}

constexpr std::uint32_t kIngress = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS);
constexpr std::uint32_t kEgress = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS);

}  // namespace

std::expected<bool, std::string> is_first_filter(std::uint32_t ifindex, bool ingress,
                                                 std::uint32_t priority, std::uint32_t handle) {
  const auto filters = filters_at(ifindex, ingress ? kIngress : kEgress);
  if (!filters) return std::unexpected(filters.error());
  return !filters->empty() && filters->front().priority == priority &&
         filters->front().handle == handle;
}

std::expected<bool, std::string> has_filters(std::uint32_t ifindex) {
  for (const std::uint32_t side : {kIngress, kEgress}) {
    const auto filters = filters_at(ifindex, side);
    if (!filters) return std::unexpected(filters.error());
    if (!filters->empty()) return true;
  }
  return false;
}

namespace {

// has_at_ingress: is the qdisc at the place of clsact and ingress of that kind?
std::expected<bool, std::string> has_at_ingress(std::uint32_t ifindex, std::string_view kind) {
  bool found = false;
  const auto look = [&](const nlmsghdr* message, const tcmsg* qdisc) {
    if (qdisc->tcm_ifindex != static_cast<int>(ifindex)) return;  // all devices' are listed
    for_each_attribute(message, sizeof(tcmsg), [&](const nlattr* attribute) {
      found |= mnl_attr_get_type(attribute) == TCA_KIND && mnl_attr_get_str(attribute) == kind;
    });
  };
  if (!dump_tc(RTM_GETQDISC, ifindex, 0, look)) return untold("qdiscs");
  return found;
}

}  // namespace

std::expected<bool, std::string> has_clsact(std::uint32_t ifindex) {
  return has_at_ingress(ifindex, "clsact");
}

std::expected<bool, std::string> has_ingress(std::uint32_t ifindex) {
  return has_at_ingress(ifindex, "ingress");
}

}  // namespace psp::kernel
