// SPDX-License-Identifier: Apache-2.0
//
// Doctor, third part: the way to another host, and what a dead pspd left on our netdevs.
//
// It goes the way of a packet: name, route, netdev with a PSP device, next hop, then probes there
// and back. The first thing that is wrong is the verdict, for what comes after it cannot be tried.
// Both families are tried side by side, and all of it has one deadline: who asks gets an answer
// within three seconds. docs/probe.md says what is sent.
#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fmt/format.h>
#include <future>
#include <memory>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <thread>

#include "base/socket_address.hh"
#include "base/socket_options.hh"
#include "base/unique_fd.hh"
#include "base/v4_mapped.hh"
#include "wire/version_text.hh"

#include "doctor.hh"
#include "netlink_query.hh"

namespace psp::ctl {

namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

// For all addresses of a host together: whoever asks gets an answer within three seconds.
constexpr auto kPatience = 2500ms;
// One packet may be lost anywhere, and is nothing to tell of.
constexpr int kLossToTell = 2;

struct Peer {
  sockaddr_storage address{};
  socklen_t size = 0;
  std::string words;  // address as numbers
};

// find_peers gives one address of each family.
std::expected<std::vector<Peer>, std::string> find_peers(const std::string& host) {
  const auto found = resolve(host, std::to_string(kUdpPort));
  if (!found) return std::unexpected(found.error());
  std::vector<Peer> peers;
  for (const SocketAddress& one : *found)
    if (std::ranges::none_of(
            peers, [&one](const Peer& peer) { return peer.address.ss_family == one.family(); }))
      peers.push_back({one.storage, one.size, one.host()});
  return peers;
}

ProbeAddress widened(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET6)
    return to_address16(reinterpret_cast<const sockaddr_in6&>(address).sin6_addr.s6_addr);
  const auto* v4 = &reinterpret_cast<const sockaddr_in&>(address).sin_addr;
  return to_address16({reinterpret_cast<const std::uint8_t*>(v4), sizeof *v4});
}

std::vector<std::uint8_t> narrowed(const ProbeAddress& address, unsigned family) {
  return {address.begin() + (family == 4 ? 12 : 0), address.end()};
}

std::string words(const ProbeAddress& address, unsigned family) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  inet_ntop(family == 4 ? AF_INET : AF_INET6, address.data() + (family == 4 ? 12 : 0), text.data(),
            text.size());
  return text.data();
}

// version_list is as pspctl dev set takes it.
std::string version_list(VersionSet versions) {
  std::string list;
  for (const Version version :
       {Version::kAesGcm128, Version::kAesGcm256, Version::kAesGmac128, Version::kAesGmac256})
    if (versions.has(version)) list += fmt::format("{}{}", list.empty() ? "" : ",", name(version));
  return list.empty() ? "none" : list;
}

// ask_kernel fills in the address that packets to the peer leave with, and the MTU of the way as
// far as the kernel knows. Returns 0 or an errno.
int ask_kernel(const Peer& peer, Way& way) {
  const UniqueFd fd(socket(peer.address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_storage own{};
  socklen_t size = sizeof own;
  if (!fd || connect(fd.get(), reinterpret_cast<const sockaddr*>(&peer.address), peer.size) != 0 ||
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&own), &size) != 0)
    return errno;
  way.source = widened(own);
  const bool v6 = peer.address.ss_family == AF_INET6;
  const auto mtu =
      get_option<int>(fd.get(), v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_MTU : IP_MTU);
  if (!mtu) return errno;
  way.mtu = static_cast<std::uint32_t>(std::min(*mtu, 65535));
  return 0;
}

// find_next_hop waits for the answer of a neighbour that the kernel does not know yet: for longer
// than the second after which it asks again.
std::optional<std::array<std::uint8_t, 6>> find_next_hop(std::uint32_t ifindex,
                                                         const std::vector<std::uint8_t>& address) {
  auto found = find_neighbour(ifindex, address);
  if (!found && ask_neighbour(ifindex, address) != 0) return std::nullopt;
  for (int i = 0; i < 60 && !found; ++i) {
    std::this_thread::sleep_for(20ms);
    found = find_neighbour(ifindex, address);
  }
  return found;
}

// may_be_loss: so many tries in a row can go unanswered where of others so many were lost.
bool may_be_loss(const Tries& others, int tries) {
  if (others.sent == 0) return false;
  return std::pow(1.0 - static_cast<double>(others.answered) / others.sent, tries) > 0.01;
}

std::string find_loss(const std::string& peer) {
  return fmt::format("look where they are lost: mtr -n {}, from both ends", peer);
}

Verdict judge_answer(const PathFacts& facts, const std::string& peer) {
  constexpr std::string_view check = "peer-udp";
  const unsigned family = facts.way.family;
  const auto& answer = facts.heard.answer ? facts.heard.answer : facts.heard.reply;
  constexpr std::string_view kNoNat =
      "PSP does not pass it: give both hosts addresses that are routed, and except what is between "
      "them from translation";
  if (answer->source != facts.way.source)
    return fail(check,
                fmt::format("{}: addresses are translated on the way: {} arrived there as {}", peer,
                            words(facts.way.source, family), words(answer->source, family)),
                std::string(kNoNat));
  if (answer->destination != facts.way.peer)
    return fail(check,
                fmt::format("{}: addresses are translated on the way: that host is {}", peer,
                            words(answer->destination, family)),
                std::string(kNoNat));
  const Tries& probes = facts.heard.probes;
  if (!facts.heard.answer && may_be_loss(probes, probes.sent))
    return fail(check,
                fmt::format("packets are lost on the way to {}: {} of {} probes were answered",
                            peer, probes.answered, probes.sent),
                find_loss(peer));
  if (!facts.heard.answer)
    return fail(
        check,
        fmt::format("{} can only reply: a firewall on the way that keeps state lets no "
                    "packet to UDP port {} pass by itself, as PSP must",
                    peer, kUdpPort),
        fmt::format("allow UDP to port {} there in both directions, from any port", kUdpPort));
  if (probes.sent - probes.answered >= kLossToTell)
    return warn(check,
                fmt::format("{} answers, but packets are lost on the way: {} of {} probes were "
                            "answered",
                            peer, probes.answered, probes.sent),
                find_loss(peer));
  return ok(check, fmt::format("{} answers: PSP packets pass in both directions", peer));
}

Verdict judge_refusal(const PathFacts& facts, const std::string& peer) {
  constexpr std::string_view check = "peer-udp";
  const std::string from = words(facts.heard.refusal->from, facts.way.family);
  switch (facts.heard.refusal->what) {
    case Refusal::What::kPort:
      return fail(check,
                  fmt::format("{} has no PSP: it says that UDP port {} is closed", peer, kUdpPort),
                  "there: start pspd (pspd --dev IFNAME --enable all); if it runs, pspctl dev set "
                  "IFNAME psp-versions-ena all");
    case Refusal::What::kFirewall:
      return fail(check, fmt::format("a firewall at {} refuses UDP to port {}", from, kUdpPort),
                  fmt::format("allow UDP to port {} there, in both directions", kUdpPort));
    default:
      return fail(check, fmt::format("{} says that it cannot reach {}", from, peer),
                  fmt::format("is that host up? if so, look at the routes of {}", from));
  }
}

Verdict judge_silence(const PathFacts& facts, const std::string& peer) {
  constexpr std::string_view check = "peer-udp";
  if (facts.heard.stray != 0)
    return fail(
        check,
        fmt::format("what {} sends comes back by {}, which has no PSP device", peer, facts.stray),
        fmt::format("pspctl dev assoc {} netdev {}, or have it come back by {}", facts.netdev,
                    facts.stray, facts.netdev));
  const Tries& echoes = facts.heard.echoes;
  if (facts.heard.echo && may_be_loss(echoes, echoes.sent))
    return fail(check,
                fmt::format("packets are lost on the way to {}: {} of {} pings were answered, and "
                            "no probe",
                            peer, echoes.answered, echoes.sent),
                find_loss(peer));
  if (facts.heard.echo)
    return fail(check,
                fmt::format("{} is there (it answers a ping), but not a probe: UDP to port {} is "
                            "dropped on the way, or not taken there",
                            peer, kUdpPort),
                fmt::format("there, pspctl doctor: does pspd hang? if not, allow UDP to port {} "
                            "between the hosts in both directions; there, pspctl -s stats show: "
                            "PROBE grows if only the way back is closed, PEER_NOT_ALLOWED if its "
                            "--allow-peers lacks this host",
                            kUdpPort));
  return fail(check, fmt::format("no sign of {}: it answers neither a probe nor a ping", peer),
              fmt::format("is it up, and that its address? else something on the way drops all: "
                          "traceroute -n {}",
                          peer));
}

Verdict judge_versions(const PathFacts& facts) {
  constexpr std::string_view check = "peer-versions";
  const VersionSet there = facts.heard.answer->enabled;
  const VersionSet both{facts.enabled.bits & there.bits};
  if (both.bits != 0) return ok(check, fmt::format("both receive {}", version_list(both)));
  return fail(check,
              fmt::format("this host receives {}, that one {}: no version in common",
                          version_list(facts.enabled), version_list(there)),
              fmt::format("here: pspctl dev set {} psp-versions-ena {}", facts.netdev,
                          version_list(VersionSet{facts.enabled.bits | there.bits})));
}

Verdict judge_mtu(const PathFacts& facts, const std::string& peer) {
  constexpr std::string_view check = "peer-mtu";
  const Heard& heard = facts.heard;
  const std::uint32_t full = heard.path_mtu != 0 ? heard.path_mtu : facts.way.mtu;
  const std::uint32_t full_back = std::min(full, heard.answer->mtu);
  const std::string via = facts.gateway.empty() ? "" : " via " + facts.gateway;
  constexpr int kTooFew = 3;  // the time was up
  if ((heard.there < full || heard.back < full_back) &&
      (heard.tries_of_a_size < kTooFew || may_be_loss(heard.probes, heard.tries_of_a_size)))
    return warn(check, "not known: too many packets are lost, whatever their size",
                find_loss(peer));
  if (heard.there < full)
    return fail(check,
                fmt::format("packets of {} octets are lost on the way to {}, those of {} are not, "
                            "and no router says so",
                            full, peer, heard.there),
                fmt::format("let them pass, or: ip route replace {}{} dev {} mtu {}", peer, via,
                            facts.netdev, heard.there));
  if (heard.back < full_back)
    return fail(check,
                fmt::format("packets of {} octets are lost on the way back from {}, those of {} "
                            "are not",
                            full_back, peer, heard.back),
                fmt::format("let them pass, or here: ip route replace {}{} dev {} mtu {}", peer,
                            via, facts.netdev, heard.back));
  return ok(check, fmt::format("packets of {} octets pass in both directions{}", full_back,
                               heard.path_mtu != 0 ? ", as routers on the way say" : ""));
}

// netdevs_of are the netdevs here that have a PSP device, their own or another's.
std::vector<std::uint32_t> netdevs_of(const std::vector<DeviceInfo>& devices) {
  std::vector<std::uint32_t> netdevs;
  for (const DeviceInfo& device : devices) {
    if (device.ifindex != 0) netdevs.push_back(device.ifindex);
    for (const AssociatedNetdev& netdev : device.associated)
      if (netdev.nsid < 0) netdevs.push_back(netdev.ifindex);
  }
  return netdevs;
}

// share_advice: how a netdev here gets a PSP device. Who sees none of his own may be in a
// container.
std::string share_advice(const std::vector<DeviceInfo>& devices, const std::string& netdev) {
  const auto own = std::ranges::find(devices, false, &DeviceInfo::by_association);
  if (own == devices.end())
    return fmt::format(
        "in a container: on its host, pspctl dev assoc DEVICE netdev {0} pid N (a "
        "process in it); on a host: pspd --dev {0}",
        netdev);
  return fmt::format(
      "if {0} is another way to the same network: pspctl dev assoc {1} netdev {0}; "
      "else restart pspd with --dev {0} as well",
      netdev, device_name(*own));
}

// not_tried: no probe was sent, and nothing is known of the way.
Verdict not_tried(std::string_view needed) {
  return fail("peer-udp", fmt::format("not tried: {}", needed), "run pspctl doctor --peer as root");
}

// check_address does all with one address, until then. `alone`: the host has no other.
Verdicts check_address(const Peer& peer, const std::vector<DeviceInfo>& devices, bool alone,
                       steady_clock::time_point until) {
  constexpr std::string_view check = "peer-route";
  const std::string add =
      fmt::format("ip route add {} via GATEWAY; what there is: ip route", peer.words);
  const auto route = find_route(peer.address);
  PathFacts facts;
  const int error = route ? ask_kernel(peer, facts.way) : route.error();
  if (error != 0) {
    const std::string text = fmt::format("{}: {}", peer.words, std::strerror(error));
    return {alone ? fail(check, text, add) : warn(check, text, add)};
  }
  facts.netdev = netdev_name(route->ifindex);
  if (route->local || facts.netdev == "lo")
    return {
        fail(check,
             fmt::format("{} is this host's own address: its packets stay on lo, where there is "
                         "no PSP",
                         peer.words),
             "name another host; to try PSP on one machine: two network namespaces, as make "
             "demo has them")};
  const DeviceInfo* device = device_of(devices, route->ifindex);
  if (device == nullptr)
    return {
        fail(check,
             fmt::format("{} is reached by {}, which has no PSP device", peer.words, facts.netdev),
             share_advice(devices, facts.netdev))};
  Verdicts verdicts{
      ok(check, fmt::format("{} is reached by {}, a PSP device", peer.words, facts.netdev))};
  facts.enabled = device->versions_ena;
  facts.way.family = peer.address.ss_family == AF_INET ? 4 : 6;
  facts.way.peer = widened(peer.address);
  facts.way.ifindex = route->ifindex;
  facts.way.back = netdevs_of(devices);
  facts.way.until = until;
  if (geteuid() != 0) {
    verdicts.push_back(not_tried("needs root"));
    return verdicts;
  }
  if (!route->gateway.empty()) {
    ProbeAddress gateway{};
    std::ranges::copy(route->gateway, gateway.end() - static_cast<long>(route->gateway.size()));
    facts.gateway = words(gateway, route->gateway.size() == 4 ? 4 : 6);
  }
  const auto hop =
      route->gateway.empty() ? narrowed(facts.way.peer, facts.way.family) : route->gateway;
  const auto next_hop = find_next_hop(route->ifindex, hop);
  if (!next_hop) {
    verdicts.push_back(
        fail("peer-udp",
             fmt::format("{} is not on the link of {}: nobody answers for its address",
                         facts.gateway.empty() ? peer.words : "the gateway " + facts.gateway,
                         facts.netdev),
             fmt::format("is it up, and that its address? ip neigh show dev {}", facts.netdev)));
    return verdicts;
  }
  facts.way.next_hop = *next_hop;
  const auto heard = probe_path(facts.way);
  if (!heard) {
    verdicts.push_back(heard.error() == EPERM
                           ? not_tried("needs CAP_NET_RAW")
                           : fail("peer-udp",
                                  fmt::format("a probe cannot be sent by {}: {}", facts.netdev,
                                              std::strerror(heard.error())),
                                  fmt::format("ip -s link show dev {}", facts.netdev)));
    return verdicts;
  }
  facts.heard = *heard;
  if (facts.heard.stray != 0) facts.stray = netdev_name(facts.heard.stray);
  std::ranges::move(judge_path(facts), std::back_inserter(verdicts));
  return verdicts;
}

}  // namespace

Verdicts judge_path(const PathFacts& facts) {
  const std::string peer = words(facts.way.peer, facts.way.family);
  const Heard& heard = facts.heard;
  if (!heard.answer && !heard.reply)
    return {heard.refusal ? judge_refusal(facts, peer) : judge_silence(facts, peer)};
  Verdicts verdicts{judge_answer(facts, peer)};
  if (verdicts[0].level == Verdict::Level::kFail) return verdicts;
  verdicts.push_back(judge_versions(facts));
  verdicts.push_back(judge_mtu(facts, peer));
  return verdicts;
}

Verdicts check_peer(const std::string& host, const std::vector<DeviceInfo>& devices) {
  const auto peers = find_peers(host);
  if (!peers) return {fail("peer", peers.error(), "check the name, or give an address")};
  // At the same time, so that the silence of one takes nothing from the other.
  std::vector<std::future<Verdicts>> checks;
  const auto until = steady_clock::now() + kPatience;
  for (const Peer& peer : *peers)
    checks.push_back(std::async(std::launch::async, check_address, std::cref(peer),
                                std::cref(devices), peers->size() == 1, until));
  Verdicts verdicts;
  for (auto& check : checks) std::ranges::move(check.get(), std::back_inserter(verdicts));
  return verdicts;
}

Verdicts check_leftovers() {
  // struct, since the function has the same name.
  using NameIndex = struct if_nameindex;
  const std::unique_ptr<NameIndex, void (*)(NameIndex*)> list(if_nameindex(), if_freenameindex);
  Verdicts verdicts;
  for (const auto* netdev = list.get(); netdev != nullptr && netdev->if_index != 0; ++netdev) {
    const auto programs = tc_programs(netdev->if_index);
    const auto ours = std::ranges::find_if(
        programs, [](const std::string& name) { return name.starts_with("psp_"); });
    if (ours == programs.end()) continue;
    verdicts.push_back(
        warn(netdev->if_name,
             fmt::format("tc program {} of a pspd that is no more: connections that "
                         "it secured stay blocked",
                         *ours),
             fmt::format("start pspd again, or pspd --dev {} --cleanup", netdev->if_name)));
  }
  return verdicts;
}

}  // namespace psp::ctl
