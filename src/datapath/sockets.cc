// SPDX-License-Identifier: Apache-2.0
#include "sockets.hh"

#include <algorithm>
#include <array>
#include <bpf/bpf.h>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <sys/socket.h>
#include <unistd.h>

#include <psp/base/unique_fd.hh>

namespace psp::datapath {
namespace {

using device::fail;
using device::Field;
using device::Result;

constexpr unsigned kTcpEstablished = 1;

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

template <typename T>
bool get_option(int fd, int option, T& value) {
  socklen_t length = sizeof value;
  return ::getsockopt(fd, SOL_SOCKET, option, &value, &length) == 0;
}

bool is_tcp(unsigned family, unsigned type, unsigned protocol) {
  return (family == AF_INET || family == AF_INET6) && type == SOCK_STREAM &&
         protocol == IPPROTO_TCP;
}

// is_tcp_socket is for sockets that the programs do not see.
bool is_tcp_socket(int fd) {
  unsigned family = 0, type = 0, protocol = 0;
  return get_option(fd, SO_DOMAIN, family) && get_option(fd, SO_TYPE, type) &&
         get_option(fd, SO_PROTOCOL, protocol) && is_tcp(family, type, protocol);
}

// tx_spi_of is the key in psp_by_tx_spi of a connection.
psp_tx_spi tx_spi_of(const psp_tuple& tuple, std::uint32_t spi) {
  psp_tx_spi key{};
  key.netns = tuple.netns;
  key.family = tuple.family;
  key.spi = spi;
  std::memcpy(key.remote, tuple.remote, sizeof tuple.remote);
  return key;
}

// reserve_options sets or takes away options of the length that PSP adds: 40 octets of NOP.
bool reserve_options(int fd, bool on) {
  std::array<std::uint8_t, kTransportOverhead> options;
  socklen_t length = options.size();
  if (on && (::getsockopt(fd, IPPROTO_IP, IP_OPTIONS, options.data(), &length) != 0 || length != 0))
    return false;  // the application has options of its own
  options.fill(IPOPT_NOP);
  return ::setsockopt(fd, IPPROTO_IP, IP_OPTIONS, options.data(), on ? options.size() : 0) == 0;
}

}  // namespace

KernelSockets::KernelSockets(const Secrets& secrets, const SocketPrograms& programs,
                             const NetnsTable& namespaces)
    : secrets_(secrets), programs_(programs), namespaces_(namespaces) {}

Result<psp_sock_view> KernelSockets::view(int fd) const {
  psp_sock_view view{};
  socklen_t length = sizeof view;
  const int result =
      ::getsockopt(fd, PSP_SOL, static_cast<int>(secrets_.view_optname), &view, &length);
  if (result == 0 && view.valid) return view;
  if (result != 0 && (errno == EBADF || errno == ENOTSOCK)) return fail(errno);
  return fail(EOPNOTSUPP, "pspd's programs do not reach this socket", Field::kSockFd);
}

// examine asks by one system call: a connection is secured by two requests, and each begins here.
Result<device::SocketInfo> KernelSockets::examine(int fd) {
  const auto seen = view(fd);
  if (!seen && seen.error().sys_errno != EOPNOTSUPP) return std::unexpected(seen.error());
  const bool tcp = seen ? is_tcp(seen->family, seen->type, seen->protocol) : is_tcp_socket(fd);
  if (!tcp) return fail(EOPNOTSUPP, "Unsupported socket family and type", Field::kSockFd);
  if (!seen) return std::unexpected(seen.error());
  // Elsewhere nobody would seal its packets, nor hear of its end.
  if (!namespaces_.contains(seen->tuple.netns))
    return fail(EOPNOTSUPP, "Socket is in a network namespace without PSP device", Field::kSockFd);
  device::SocketInfo info;
  info.netns = seen->tuple.netns;
  info.cookie = seen->cookie;
  if (info.cookie == 0) get_option(fd, SO_COOKIE, info.cookie);
  info.established = seen->tcp_state == kTcpEstablished;
  info.route_ifindex = seen->route_ifindex;
  info.uid = seen->uid;
  return info;
}

psp_sockopt KernelSockets::request_for(const device::Association& association) const {
  psp_sockopt request{};
  request.token[0] = secrets_.token[0];
  request.token[1] = secrets_.token[1];
  request.rx_spi = association.rx_spi.value;
  request.tx_spi = association.tx_spi ? association.tx_spi->value : 0;
  request.tx_handle = association.tx_handle;
  request.dev_id = association.dev_id;
  request.generation = association.generation;
  request.version = static_cast<std::uint8_t>(association.version);
  if (any_state_) request.flags |= PSP_SOCKOPT_ANY_STATE;
  if (const auto binding = bindings_.find(association.dev_id); binding != bindings_.end())
    request.rotation = *binding->second.rotation;
  return request;
}

Result<void> KernelSockets::rx_attach(int fd, const device::Association& association) {
  const psp_sockopt request = request_for(association);
  if (::setsockopt(fd, PSP_SOL, PSP_SO_RX_ATTACH, &request, sizeof request) == 0) return {};
  switch (errno) {
    case ENOTCONN:
      return fail(ENOTCONN, "Socket must be in established state", Field::kSockFd);
    case EBUSY:
      return fail(EBUSY, "Socket already has PSP state", Field::kSockFd);
    case EINVAL:
      return fail(EINVAL, "Socket has incompatible state", Field::kSockFd);
    default:
      return fail(errno);
  }
}

// note tells the programs which connection the socket is. One without a peer is noted by its first
// packet.
Result<void> KernelSockets::note(const psp_sock_view& view,
                                 const device::Association& association) const {
  psp_noted_entry noted{};
  noted.tuple.netns = view.tuple.netns;
  if (view.connected) noted.tuple = view.tuple;
  noted.tx_spi = htonl(association.tx_spi ? association.tx_spi->value : 0);
  constexpr const char* kFull = "Too many secured sockets";
  if (bpf_map_update_elem(programs_.noted_map(), &association.cookie, &noted, BPF_NOEXIST) != 0)
    return errno == EEXIST ? fail(EBUSY, "Tx key already set") : fail(ENOSPC, kFull);
  if (!view.connected) return {};
  psp_tuple_entry entry{};
  entry.cookie = association.cookie;
  entry.epoch = secrets_.epoch;
  entry.tx_handle = association.tx_handle;
  entry.rx_spi = association.rx_spi.value;
  entry.generation = association.generation;
  entry.version = static_cast<std::uint8_t>(association.version);
  entry.dev_id = association.dev_id;
  entry.rotation = view.rotation;
  const psp_tx_spi spi = tx_spi_of(noted.tuple, noted.tx_spi);
  // An SPI that another connection to that peer has stays its: an SPI is what a caller says it is.
  if (bpf_map_update_elem(programs_.departed_map(), &noted.tuple, &entry, BPF_ANY) == 0 &&
      (bpf_map_update_elem(programs_.tx_spi_map(), &spi, &noted.tuple, BPF_NOEXIST) == 0 ||
       errno == EEXIST))
    return {};
  forget(association.cookie);
  return fail(ENOSPC, kFull);
}

Result<void> KernelSockets::switch_to_tx(int fd, const psp_sockopt& request) const {
  if (::setsockopt(fd, PSP_SOL, PSP_SO_TX_ATTACH, &request, sizeof request) == 0) return {};
  switch (errno) {
    case ENOTCONN:
      return fail(ENOTCONN, "Socket must be in established state");
    case ENOENT:
      return fail(EINVAL, "Socket has no Rx key");
    case EALREADY:
      return fail(EBUSY, "Tx key already set");
    case EBUSY:
      return fail(EBUSY, "Socket has incompatible segments already in the recv queue");
    default:
      return fail(errno);
  }
}

Result<void> KernelSockets::tx_attach(int fd, const device::Association& association) {
  const auto binding = bindings_.find(association.dev_id);
  if (binding == bindings_.end()) return fail(ENODEV);
  const auto before = view(fd);
  if (!before) return std::unexpected(before.error());
  const bool connected = before->connected != 0;
  if (!connected && !any_state_) return fail(ENOTCONN, "Socket must be in established state");

  // Before the switch: from then on no packet of this connection may leave in clear, whatever sends
  // it.
  if (auto noted = note(*before, association); !noted) return noted;
  psp_sockopt request = request_for(association);
  if (connected) request.flags |= PSP_SOCKOPT_TUPLE_NOTED;
  if (auto switched = switch_to_tx(fd, request); !switched) {
    forget(association.cookie);
    return switched;
  }
  if (!connected) return {};
  const bool reserved = reserve_options(fd, true);
  const auto after = view(fd);
  if (after)
    binding->second.driver->set_clear_boundary(association.netdev.netns, association.tx_handle,
                                               after->clear_boundary);
  if (reserved) settle_mss(fd, after && after->mss + kTransportOverhead == before->mss, request);
  return {};
}

// settle_mss: IPv4 options on a socket lower its MSS by their length at once, as the kernel does at
// tx-assoc. They never reach the wire: IPv6 packets do not carry them, and off IPv4 packets the
// datapath takes them. An accepted IPv6 socket does not react, and some applications have options
// of their own; then the datapath cuts segments that are too long, and the socket programs tell the
// application the MSS that results.
void KernelSockets::settle_mss(int fd, bool lowered, const psp_sockopt& request) {
  if (lowered)
    ::setsockopt(fd, PSP_SOL, PSP_SO_MSS_RESERVED, &request, sizeof request);
  else
    reserve_options(fd, false);
}

void KernelSockets::forget(std::uint64_t cookie) const {
  psp_noted_entry noted{};
  if (bpf_map_lookup_elem(programs_.noted_map(), &cookie, &noted) != 0) return;
  // A later connection with the same ports may have taken the entries over.
  psp_tuple_entry entry{};
  if (bpf_map_lookup_elem(programs_.departed_map(), &noted.tuple, &entry) == 0 &&
      entry.cookie == cookie)
    bpf_map_delete_elem(programs_.departed_map(), &noted.tuple);
  const psp_tx_spi spi = tx_spi_of(noted.tuple, noted.tx_spi);
  psp_tuple tuple;
  if (bpf_map_lookup_elem(programs_.tx_spi_map(), &spi, &tuple) == 0 &&
      std::memcmp(&tuple, &noted.tuple, sizeof tuple) == 0)
    bpf_map_delete_elem(programs_.tx_spi_map(), &spi);
  bpf_map_delete_elem(programs_.noted_map(), &cookie);
}

bool KernelSockets::is_released(std::uint64_t cookie) const {
  psp_noted_entry noted{};
  return bpf_map_lookup_elem(programs_.noted_map(), &cookie, &noted) != 0 || noted.released != 0;
}

}  // namespace psp::datapath
