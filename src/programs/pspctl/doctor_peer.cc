// SPDX-License-Identifier: Apache-2.0
//
// Doctor, third part: the way to another host, and what a dead pspd left on our netdevs.
#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <memory>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <psp/base/unique_fd.hh>
#include <psp/wire/header.hh>

#include "doctor.hh"
#include "netlink_query.hh"

namespace psp::ctl {

namespace {

constexpr int kPatienceMs = 500;

struct Peer {
  sockaddr_storage address{};
  socklen_t size = 0;
  std::string words;  // address as numbers
};

std::expected<Peer, std::string> resolve(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), std::to_string(kUdpPort).c_str(), &hints, &found);
  if (error != 0) return std::unexpected(gai_strerror(error));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> list(found, freeaddrinfo);
  Peer peer;
  std::memcpy(&peer.address, list->ai_addr, list->ai_addrlen);
  peer.size = list->ai_addrlen;
  std::array<char, NI_MAXHOST> numbers{};
  getnameinfo(list->ai_addr, list->ai_addrlen, numbers.data(), numbers.size(), nullptr, 0,
              NI_NUMERICHOST);
  peer.words = numbers.data();
  return peer;
}

// unopenable is a well-formed PSP packet whose SPI is reserved: devices drop it as rx-bad.
std::array<std::uint8_t, kPspBaseHeader + kIcv> unopenable() {
  std::array<std::uint8_t, kPspBaseHeader + kIcv> packet{};
  wire::write_header(packet, wire::PspHeader{});
  return packet;
}

// knock sends it and waits for a refusal. Returns 0 or an errno.
int knock(int fd) {
  const auto packet = unopenable();
  if (send(fd, packet.data(), packet.size(), 0) < 0) return errno;
  pollfd refusal{.fd = fd, .events = POLLIN, .revents = 0};
  if (poll(&refusal, 1, kPatienceMs) <= 0) return 0;
  std::array<char, 1> octet{};
  return recv(fd, octet.data(), octet.size(), MSG_DONTWAIT) < 0 && errno != EAGAIN ? errno : 0;
}

Verdict judge_route(const Peer& peer, const std::vector<DeviceInfo>& devices) {
  constexpr std::string_view check = "peer-route";
  const auto ifindex = route_ifindex(peer.address);
  if (!ifindex)
    return fail(check, fmt::format("{}: {}", peer.words, std::strerror(ifindex.error())),
                "ip route get " + peer.words);
  const std::string netdev = netdev_name(*ifindex);
  if (std::ranges::find(devices, *ifindex, &DeviceInfo::ifindex) == devices.end())
    return fail(check,
                fmt::format("{} is reached by {}, which is no PSP device", peer.words, netdev),
                fmt::format("pspd --dev {}", netdev));
  return ok(check, fmt::format("{} is reached by {}, a PSP device", peer.words, netdev));
}

Verdict judge_knock(const Peer& peer, int error) {
  constexpr std::string_view check = "peer-udp";
  switch (error) {
    case 0:
      return ok(check, fmt::format("{} does not refuse UDP port {} (it never answers either)",
                                   peer.words, kUdpPort));
    case ECONNREFUSED:
      return warn(check, fmt::format("{} says that UDP port {} is closed", peer.words, kUdpPort),
                  "there: pspctl doctor; start pspd and enable versions for receive");
    case EPERM:
    case EACCES:
      return fail(check, fmt::format("this host does not let UDP to port {} out", kUdpPort),
                  "look at the firewall here: nft list ruleset");
    default:
      return fail(
          check, fmt::format("{}: {}", peer.words, std::strerror(error)),
          fmt::format("no way for UDP port {}: look at routes and firewalls between", kUdpPort));
  }
}

Verdict judge_path_mtu(const Peer& peer, int fd) {
  constexpr std::string_view check = "peer-mtu";
  const bool v6 = peer.address.ss_family == AF_INET6;
  int mtu = 0;
  socklen_t size = sizeof mtu;
  if (getsockopt(fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_MTU : IP_MTU, &mtu, &size) != 0)
    return warn(check, fmt::format("{}: {}", peer.words, std::strerror(errno)),
                "ip route get " + peer.words);
  return ok(check, fmt::format("path MTU {} as far as the kernel knows", mtu));
}

}  // namespace

Verdicts check_peer(const std::string& host, const std::vector<DeviceInfo>& devices) {
  const auto peer = resolve(host);
  if (!peer) return {fail("peer", fmt::format("{}: {}", host, peer.error()), "check the name")};
  Verdicts verdicts;
  verdicts.push_back(judge_route(*peer, devices));
  const UniqueFd fd(socket(peer->address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd ||
      connect(fd.get(), reinterpret_cast<const sockaddr*>(&peer->address), peer->size) != 0) {
    verdicts.push_back(judge_knock(*peer, errno));
    return verdicts;
  }
  verdicts.push_back(judge_knock(*peer, knock(fd.get())));
  verdicts.push_back(judge_path_mtu(*peer, fd.get()));
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
