// SPDX-License-Identifier: Apache-2.0
//
// Models for the tests and the fuzz target of this layer: sockets and a driver that do what they
// are told, a Server over the real Core, and hexadecimal both ways. Keys and SPIs are counted up,
// so that golden octets can have them. World is what most tests begin with: one device, one good
// socket, a caller who may do everything; a test takes away what it is about.
#pragma once

#include <cerrno>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "device/core.hh"
#include "device/core_fakes.hh"
#include "netlink/codec.hh"
#include "netlink/families.hh"
#include "netlink/server.hh"
#include <psp/netlink/uapi.h>

namespace psp::netlink::testing {

// ModelSockets knows sockets by descriptor number.
class ModelSockets final : public device::SocketOps {
 public:
  struct Socket {
    std::uint64_t cookie = 1;
    std::uint64_t netns = 0;
    std::uint32_t route_ifindex = 7;
    bool tcp = true;
    bool established = true;
    bool clear_queued = false;
  };
  std::map<int, Socket> sockets;

  device::Result<device::SocketInfo> examine(int fd) override {
    const auto it = sockets.find(fd);
    if (it == sockets.end()) return device::fail(ENOTSOCK);
    if (!it->second.tcp)
      return device::fail(EOPNOTSUPP, "Unsupported socket family and type", device::Field::kSockFd);
    device::SocketInfo info;
    info.cookie = it->second.cookie;
    info.netns = it->second.netns;
    info.route_ifindex = it->second.route_ifindex;
    info.established = it->second.established;
    return info;
  }
  device::Result<void> rx_attach(int, const device::Association&) override { return {}; }
  device::Result<device::TxSwitch> tx_attach(int fd, const device::Association&) override {
    if (sockets[fd].clear_queued)
      return device::fail(EBUSY, "Socket has incompatible segments already in the recv queue");
    return {};
  }
};

// FakeNetdevs is a host where nsid n of every namespace means the namespace n, 0 to 9. Netdevs have
// ifindexes below 1000.
class FakeNetdevs final : public device::NetdevOps {
 public:
  std::vector<device::NetdevKey> attached;
  device::Result<std::uint64_t> netns_of(std::uint64_t, std::int32_t nsid) override {
    if (nsid < 0 || nsid > 9) return device::fail(EINVAL);
    return static_cast<std::uint64_t>(nsid);
  }
  std::int32_t nsid_of(std::uint64_t caller, std::uint64_t netns) override {
    return caller == netns ? -1 : static_cast<std::int32_t>(netns);
  }
  device::Result<void> attach(const device::Device&, device::NetdevKey netdev) override {
    if (netdev.ifindex >= 1000) return device::fail(ENODEV, "", device::Field::kIfindex);
    attached.push_back(netdev);
    return {};
  }
  device::Result<void> detach(const device::Device& device, device::NetdevKey netdev) override {
    abandon(device, netdev);
    return {};
  }
  void abandon(const device::Device&, device::NetdevKey netdev) override {
    std::erase(attached, netdev);
  }
};

// SomeLater tells of a list that becomes known bit by bit: `gaps` times there is nothing yet before
// each one. With an error it ends in it.
class SomeLater final : public Associations {
 public:
  SomeLater(std::vector<AssocInfo> all, int gaps, device::Error end)
      : all_(std::move(all)), gaps_(gaps), end_(end) {}
  device::Result<Next> next(AssocInfo& one) override {
    if (gap_++ < gaps_) return Next::kLater;
    gap_ = 0;
    const auto next = all_.next(one);
    if (next == Next::kEnd && end_.sys_errno != 0) return std::unexpected(end_);
    return next;
  }
  std::size_t held() const override { return all_.held(); }

 private:
  ListedAssociations all_;
  int gaps_, gap_ = 0;
  device::Error end_;
};

// ModelInspector answers with what it holds.
class ModelInspector final : public Inspector {
 public:
  std::vector<AssocInfo> all;
  DaemonInfo info;
  std::vector<KeptPacket> kept;
  bool gives_keys = false;
  int gaps = 0;         // see SomeLater
  device::Error end{};  // the same
  std::unique_ptr<Associations> associations(Visible visible) override {
    std::vector<AssocInfo> seen = all;
    if (visible) std::erase_if(seen, [&](const AssocInfo& one) { return !visible(one.cookie); });
    return std::make_unique<SomeLater>(std::move(seen), gaps, end);
  }
  DaemonInfo daemon_info() override { return info; }
  std::vector<KeptPacket> kept_packets() override { return kept; }
  device::Result<CapturedKey> captured_key(const Caller&,
                                           std::span<const std::uint8_t> datagram) override {
    if (!gives_keys) return device::fail(EOPNOTSUPP);
    CapturedKey found;
    if (datagram.size() >= 16) found.key.assign(datagram.first(16));
    return found;
  }
};

// World is a Server with one device: id 1, ifindex 7, able to do all versions; socket 40 is fine.
struct World {
  ModelSockets sockets;
  device::FakeDriver driver;
  ModelInspector inspector;
  FakeNetdevs netdevs;
  device::Core core{sockets, &netdevs};
  Server server{core, &inspector};
  Caller caller{.net_admin = true, .paced = true};
  struct Notified {
    std::uint32_t group;
    std::uint64_t netns;
    Datagram datagram;
  };
  std::vector<Notified> notifications;

  explicit World(VersionSet cap = VersionSet::all()) {
    sockets.sockets[40] = {};
    driver.next_spi = 0x101;
    core.set_compat(device::Compat::kNetNext);
    core.set_notifier(&server);
    server.set_multicast(
        [this](std::uint32_t group, std::uint64_t netns, const Datagram& datagram) {
          notifications.push_back({group, netns, datagram});
        });
    (void)core.add_device({0, 7}, "eth0", cap, driver);
    notifications.clear();
  }
  std::vector<Datagram> ask(std::span<const std::uint8_t> request, int fd = -1) {
    std::vector<Datagram> out;
    server.handle(caller, request, fd, out);
    while (server.resume(caller, out)) {
    }
    return out;
  }
};

inline std::string hex(std::span<const std::uint8_t> octets) {
  std::string text;
  for (const std::uint8_t octet : octets) {
    text += "0123456789abcdef"[octet >> 4];
    text += "0123456789abcdef"[octet & 15];
  }
  return text;
}

inline std::vector<std::uint8_t> unhex(std::string_view text) {
  std::vector<std::uint8_t> octets;
  int high = -1;
  for (const char c : text) {
    if (c == ' ' || c == '\n') continue;
    const int digit = c <= '9' ? c - '0' : c - 'a' + 10;
    if (high >= 0) octets.push_back(static_cast<std::uint8_t>(high << 4 | digit));
    high = high >= 0 ? -1 : digit;
  }
  return octets;
}

// message builds a request: sequence number 9, port 0.
template <typename Fill>
std::vector<std::uint8_t> message(std::uint16_t family, std::uint8_t cmd, Fill&& fill,
                                  std::uint16_t flags = NLM_F_REQUEST) {
  Writer writer;
  writer.begin(family, flags, 9, 0, cmd, 1);
  fill(writer);
  writer.end();
  return writer.take();
}
inline std::vector<std::uint8_t> message(std::uint16_t family, std::uint8_t cmd,
                                         std::uint16_t flags = NLM_F_REQUEST) {
  return message(
      family, cmd, [](Writer&) {}, flags);
}

}  // namespace psp::netlink::testing
