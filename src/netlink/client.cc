// SPDX-License-Identifier: Apache-2.0
//
// The client. Where the kernel and pspd both serve the family it has an Endpoint for each, and each
// request one of them to go to. Numbers of devices tell whose they are, as pspd's begin at
// SOFTPSP_FIRST_DEVICE there; whose a socket is only its route tells, so pspd is asked for that
// first. Lists and notifications are those of both. A key in an answer is checked before it is
// handed on: of the right length, under an SPI that can be.
#include "netlink/client.hh"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/nsid.hh"
#include "base/socket_options.hh"
#include "netlink/endpoint.hh"
#include <psp/netlink/uapi.h>

namespace psp {

using netlink::DeviceRequest;
using netlink::Endpoint;

namespace {

// own_netdevs says -1 of our own namespace where a device's list has its number, as the kernel puts
// it in the device's namespace.
void own_netdevs(std::span<DeviceInfo> devices) {
  const auto numbered = [](const AssociatedNetdev& netdev) { return netdev.nsid >= 0; };
  if (std::ranges::none_of(devices, [&](const DeviceInfo& device) {
        return std::ranges::any_of(device.associated, numbered);
      }))
    return;
  const auto own = own_nsid();
  if (!own) return;
  for (DeviceInfo& device : devices)
    for (AssociatedNetdev& netdev : device.associated)
      if (netdev.nsid == *own) netdev.nsid = -1;
}

// stays_here: both ends have one address, so the connection never leaves this host.
bool stays_here(int fd) {
  sockaddr_in6 own{}, peer{};  // an IPv4 one is smaller
  socklen_t own_size = sizeof own, peer_size = sizeof peer;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &own_size) != 0 ||
      ::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &peer_size) != 0)
    return false;
  if (own.sin6_family == AF_INET6)
    return std::memcmp(&own.sin6_addr, &peer.sin6_addr, sizeof own.sin6_addr) == 0;
  const auto address = [](const sockaddr_in6& name) {
    return reinterpret_cast<const sockaddr_in&>(name).sin_addr.s_addr;
  };
  return own.sin6_family == AF_INET && address(own) == address(peer);
}

// explain adds the cause where the socket tells it and the answer does not.
ClientError explain(int fd, std::string_view what, ClientError error) {
  std::string cause;
  if (error.missing_attribute == ".dev-id")
    cause = stays_here(fd)
                ? "the connection stays within this host (lo), where there is no PSP device"
                : "the connection's route leads by a netdev without PSP device: start pspd with "
                  "--dev for it, or pspctl dev assoc ('ip route get' names it; lo can have none)";
  else if (error.sys_errno == EOPNOTSUPP &&
           get_option<int>(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_MPTCP)
    cause = "an MPTCP socket, and PSP is for plain TCP (in Go: GODEBUG=multipathtcp=0)";
  if (cause.empty()) return error;
  error.text = error.text.empty() ? cause : error.text + ": " + cause;
  error.message =
      std::string(what) + ": " + error.text + " (" + std::strerror(error.sys_errno) + ")";
  return error;
}

}  // namespace

struct Client::Impl {
  std::vector<Endpoint> endpoints;  // one, or pspd's and then the kernel's
  UniqueFd events{};                // polls those of both

  Endpoint& daemon_or_only() { return endpoints.front(); }
  Endpoint& of_device(std::uint32_t id);
  Endpoint& of_socket(int fd, std::optional<std::uint32_t> dev_id);
  Endpoint& of_request(const Request& request);
  ClientResult<void> change(const char* what, std::uint8_t cmd, const DeviceRequest& request);
  ClientResult<void> watch_both();
  ClientResult<bool> receive(std::chrono::milliseconds left);
};

// Numbers of devices tell whose they are: where the kernel has the family, pspd's begin behind.
Endpoint& Client::Impl::of_device(std::uint32_t id) {
  return id < SOFTPSP_FIRST_DEVICE ? endpoints.back() : endpoints.front();
}

// A socket is pspd's if its route is by a netdev of pspd's devices, and else the kernel's.
Endpoint& Client::Impl::of_socket(int fd, std::optional<std::uint32_t> dev_id) {
  if (endpoints.size() == 1 || endpoints.front().serves(fd)) return endpoints.front();
  return dev_id ? of_device(*dev_id) : endpoints.back();
}

// of_request: the number of a device is attribute 1 in all operations.
Endpoint& Client::Impl::of_request(const Request& request) {
  static_assert(PSPNL_DEV_ID == 1 && PSPNL_ASSOC_DEV_ID == 1 && PSPNL_STATS_DEV_ID == 1);
  const auto dev_id = netlink::read<DeviceRequest>(request.attributes).id;
  if (request.fd >= 0) return of_socket(request.fd, dev_id);
  return dev_id ? of_device(*dev_id) : endpoints.back();
}

std::optional<std::string> chosen_socket() {
  const char* name = std::getenv("PSP_SOCKET");
  return name != nullptr && name[0] != '\0' ? std::optional<std::string>(name) : std::nullopt;
}

std::string default_socket() { return chosen_socket().value_or(kCommonSocket); }

ClientResult<Client> Client::connect(const std::optional<std::string>& socket) {
  if (socket) return connect_daemon(*socket);
  auto kernel = Endpoint::open_kernel();
  auto daemon = Endpoint::open_daemon(kCommonSocket);
  if (!kernel && !daemon) {
    if (daemon.error().sys_errno != ENOENT) return std::unexpected(daemon.error());
    return client_error(ENOENT, std::string("this kernel has no PSP (CONFIG_INET_PSP) and no pspd "
                                            "answers at ") +
                                    kCommonSocket + ": start one with 'pspd --dev IFNAME'");
  }
  std::vector<Endpoint> endpoints;
  for (auto* endpoint : {&daemon, &kernel})
    if (*endpoint) endpoints.push_back(std::move(**endpoint));
  return Client(std::make_unique<Impl>(Impl{.endpoints = std::move(endpoints)}));
}

ClientResult<Client> Client::connect_daemon(const std::string& socket) {
  return of(Endpoint::open_daemon(socket));
}

ClientResult<Client> Client::connect_kernel() { return of(Endpoint::open_kernel()); }

ClientResult<Client> Client::of(ClientResult<Endpoint> endpoint) {
  if (!endpoint) return std::unexpected(endpoint.error());
  std::vector<Endpoint> endpoints;
  endpoints.push_back(std::move(*endpoint));
  return Client(std::make_unique<Impl>(Impl{.endpoints = std::move(endpoints)}));
}

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
Client::~Client() = default;

bool Client::has(Provider provider) const {
  return std::ranges::find(impl_->endpoints, provider, &Endpoint::provider) !=
         impl_->endpoints.end();
}

ClientResult<std::vector<DeviceInfo>> Client::devices() {
  std::vector<DeviceInfo> all;
  for (Endpoint& endpoint : impl_->endpoints) {
    auto devices = endpoint.devices();
    if (!devices) return devices;
    std::ranges::move(*devices, std::back_inserter(all));
  }
  own_netdevs(all);
  return all;
}

ClientResult<DeviceInfo> Client::device(std::uint32_t id) {
  auto device = impl_->of_device(id).device(id);
  if (device) own_netdevs({&*device, 1});
  return device;
}

ClientResult<void> Client::Impl::change(const char* what, std::uint8_t cmd,
                                        const DeviceRequest& request) {
  Endpoint& endpoint = of_device(*request.id);
  return endpoint.connection().ask(endpoint.head(what, cmd), request);
}

ClientResult<void> Client::set_versions(std::uint32_t id, VersionSet ena) {
  return impl_->change("dev-set", PSPNL_CMD_DEV_SET, {.id = id, .versions_ena = ena});
}

ClientResult<void> Client::key_rotate(std::uint32_t id) {
  return impl_->change("key-rotate", PSPNL_CMD_KEY_ROTATE, {.id = id});
}

ClientResult<void> Client::dev_assoc(std::uint32_t id, std::uint32_t ifindex,
                                     std::optional<std::int32_t> nsid) {
  return impl_->change("dev-assoc", PSPNL_CMD_DEV_ASSOC,
                       {.id = id, .ifindex = ifindex, .nsid = nsid});
}

ClientResult<void> Client::dev_disassoc(std::uint32_t id, std::uint32_t ifindex,
                                        std::optional<std::int32_t> nsid) {
  return impl_->change("dev-disassoc", PSPNL_CMD_DEV_DISASSOC,
                       {.id = id, .ifindex = ifindex, .nsid = nsid});
}

ClientResult<RxAssocInfo> Client::rx_assoc(int fd, Version version,
                                           std::optional<std::uint32_t> dev_id) {
  Endpoint& endpoint = impl_->of_socket(fd, dev_id);
  netlink::RequestHead head = endpoint.head("rx-assoc", PSPNL_CMD_RX_ASSOC);
  head.attached = fd;
  auto info = endpoint.connection().ask_for<RxAssocInfo>(
      head, device::AssocRequest{.fd = fd, .dev_id = dev_id, .version = version, .tx_key = {}});
  if (!info) return std::unexpected(explain(fd, "rx-assoc", info.error()));
  if (info->rx.key.size() != key_size(version) || !info->rx.spi.valid())
    return client_error(EPROTO, "rx-assoc: the answer holds no usable key");
  return info;
}

ClientResult<void> Client::tx_assoc(int fd, Version version, const KeyInfo& tx,
                                    std::optional<std::uint32_t> dev_id) {
  Endpoint& endpoint = impl_->of_socket(fd, dev_id);
  netlink::RequestHead head = endpoint.head("tx-assoc", PSPNL_CMD_TX_ASSOC);
  head.attached = fd;
  const device::AssocRequest request{
      .fd = fd,
      .dev_id = dev_id,
      .version = version,
      .tx_key = device::AssocRequest::Keys{.spi = tx.spi.value, .key = tx.key.span()}};
  auto done = endpoint.connection().ask(head, request);
  if (!done) return std::unexpected(explain(fd, "tx-assoc", done.error()));
  return done;
}

ClientResult<std::vector<StatsInfo>> Client::stats() {
  std::vector<StatsInfo> all;
  for (Endpoint& endpoint : impl_->endpoints) {
    const auto stats =
        endpoint.connection().list<StatsInfo>(endpoint.head("get-stats", PSPNL_CMD_GET_STATS));
    if (!stats) return stats;
    all.insert(all.end(), stats->begin(), stats->end());
  }
  return all;
}

ClientResult<StatsInfo> Client::stats(std::uint32_t dev_id) {
  Endpoint& endpoint = impl_->of_device(dev_id);
  return endpoint.connection().ask_for<StatsInfo>(endpoint.head("get-stats", PSPNL_CMD_GET_STATS),
                                                  netlink::StatsRequest{.dev_id = dev_id});
}

ClientResult<void> Client::subscribe(bool mgmt, bool use) {
  for (Endpoint& endpoint : impl_->endpoints)
    if (auto done = endpoint.subscribe(mgmt, use); !done) return done;
  return impl_->endpoints.size() > 1 ? impl_->watch_both() : ClientResult<void>();
}

ClientResult<void> Client::Impl::watch_both() {
  events = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  for (const Endpoint& endpoint : endpoints) {
    epoll_event event{.events = EPOLLIN, .data = {}};
    if (!events ||
        ::epoll_ctl(events.get(), EPOLL_CTL_ADD, endpoint.notification_fd(), &event) != 0)
      return client_error(errno, "cannot wait for notifications");
  }
  return {};
}

ClientResult<std::optional<Notification>> Client::next_notification(
    std::chrono::milliseconds timeout) {
  if (notification_fd() < 0)
    return client_error(EINVAL, "subscribe first, then wait for notifications");
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    for (Endpoint& endpoint : impl_->endpoints)
      if (auto next = endpoint.next()) {
        own_netdevs({&next->device, 1});
        return next;
      }
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (auto more = impl_->receive(left); !more || !*more) {
      if (!more) return std::unexpected(more.error());
      return std::optional<Notification>();
    }
  }
}

// receive waits for notifications and takes what there is. False: time is up.
ClientResult<bool> Client::Impl::receive(std::chrono::milliseconds left) {
  std::vector<pollfd> ready;
  ready.reserve(endpoints.size());
  for (const Endpoint& endpoint : endpoints)
    ready.push_back({.fd = endpoint.notification_fd(), .events = POLLIN, .revents = 0});
  const auto wait = std::clamp<std::int64_t>(left.count(), 0, INT32_MAX);
  const int count = ::poll(ready.data(), ready.size(), static_cast<int>(wait));
  if (count < 0 && errno != EINTR) return client_error(errno, "cannot wait for notifications");
  if (count == 0) return false;
  for (std::size_t i = 0; count > 0 && i < ready.size(); ++i)
    if (ready[i].revents != 0)
      if (auto got = endpoints[i].receive(); !got) return std::unexpected(got.error());
  return true;
}

int Client::notification_fd() const {
  return impl_->events ? impl_->events.get() : impl_->endpoints.front().notification_fd();
}

ClientResult<void> Client::request(const Request& request, const netlink::OnAnswer& on_answer) {
  const auto send = [&](Endpoint& endpoint) {
    netlink::RequestHead head = endpoint.head(request.name, request.cmd);
    head.dump = request.dump;
    head.attached = request.fd;
    head.acknowledged = true;  // a newer family's operation may have no reply
    auto done = endpoint.connection().ask(
        head,
        [&](netlink::Writer& writer) {
          netlink::for_each_attribute(request.attributes, [&](const nlattr* attribute) {
            writer.put_octets(attribute->nla_type, netlink::get_octets(attribute));
          });
        },
        on_answer);
    if (!done && request.fd >= 0)
      return ClientResult<void>(
          std::unexpected(explain(request.fd, request.name, std::move(done.error()))));
    return done;
  };
  if (!request.dump) return send(impl_->of_request(request));
  for (Endpoint& endpoint : impl_->endpoints)
    if (auto done = send(endpoint); !done) return done;
  return {};
}

ClientResult<std::vector<AssocInfo>> Client::associations() {
  return impl_->daemon_or_only().own_list<AssocInfo>("assoc-get", SOFTPSP_CMD_ASSOC_GET);
}

ClientResult<std::vector<KeptPacket>> kept_packets(Client& client) {
  return client.impl_->daemon_or_only().own_list<KeptPacket>("packet-get", SOFTPSP_CMD_PACKET_GET);
}

ClientResult<CapturedKey> captured_key(Client& client, std::span<const std::uint8_t> datagram) {
  Endpoint& endpoint = client.impl_->daemon_or_only();
  const auto head = endpoint.own_head("key-get", SOFTPSP_CMD_KEY_GET);
  if (!head) return std::unexpected(head.error());
  netlink::KeyRequest request;
  if (!datagram.empty()) request.datagram = datagram;
  return endpoint.connection().ask_for<CapturedKey>(*head, request);
}

ClientResult<DaemonInfo> daemon_info(Client& client) {
  Endpoint& endpoint = client.impl_->daemon_or_only();
  const auto head = endpoint.own_head("info-get", SOFTPSP_CMD_INFO_GET);
  if (!head) return std::unexpected(head.error());
  auto info = endpoint.connection().ask_for<DaemonInfo>(*head);
  if (!info) return info;
  auto devices = endpoint.connection().list<DaemonInfo::Device>(*head);
  if (!devices) return std::unexpected(devices.error());
  info->devices = std::move(*devices);
  return info;
}

}  // namespace psp
