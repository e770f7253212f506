// SPDX-License-Identifier: Apache-2.0
//
// Two requests to the kernel for each of the core's: setsockopt, which the socket programs answer
// under the socket's lock, and the maps that outlive the socket. What outlives it is noted before
// the socket changes, and taken back if it does not.
//
// Threading: see sockets.hh.
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

#include "base/socket_options.hh"
#include "base/unique_fd.hh"

#include "loading.hh"

namespace psp::kernel {
namespace {

using device::fail;
using device::Field;
using device::Result;

bool is_tcp(unsigned family, unsigned type, unsigned protocol) {
  return (family == AF_INET || family == AF_INET6) && type == SOCK_STREAM &&
         protocol == IPPROTO_TCP;
}

// is_tcp_socket is for sockets that the programs do not see.
bool is_tcp_socket(int fd) {
  const auto family = get_option<unsigned>(fd, SOL_SOCKET, SO_DOMAIN);
  const auto type = get_option<unsigned>(fd, SOL_SOCKET, SO_TYPE);
  const auto protocol = get_option<unsigned>(fd, SOL_SOCKET, SO_PROTOCOL);
  return family && type && protocol && is_tcp(*family, *type, *protocol);
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

// in_doubt: what there is of the socket stays as it is. A later tx-assoc finds out.
std::unexpected<device::Error> in_doubt() {
  return fail(EIO, "The kernel does not tell whether the Tx key is set: ask again, or close");
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
  auto seen = view(fd);
  // Nobody has asked for its cookie yet: so it gets one. Without one, two sockets would be the
  // same.
  if (seen && seen->cookie == 0 && get_option<std::uint64_t>(fd, SOL_SOCKET, SO_COOKIE))
    seen = view(fd);
  if (!seen && seen.error().sys_errno != EOPNOTSUPP) return std::unexpected(seen.error());
  const bool tcp = seen ? is_tcp(seen->family, seen->type, seen->protocol) : is_tcp_socket(fd);
  if (!tcp) return fail(EOPNOTSUPP, "Unsupported socket family and type", Field::kSockFd);
  if (!seen) return std::unexpected(seen.error());
  // Elsewhere nobody would seal its packets, nor hear of its end.
  if (!namespaces_.contains(seen->tuple.netns))
    return fail(EOPNOTSUPP, "Socket is in a network namespace without PSP device", Field::kSockFd);
  device::SocketInfo info;
  info.netns = seen->tuple.netns;
  if (seen->cookie == 0) return fail(EOPNOTSUPP, "Socket has no cookie", Field::kSockFd);
  info.cookie = seen->cookie;
  info.established = seen->tcp_state == PSP_TCP_ESTABLISHED;
  info.route_ifindex = seen->route_ifindex;
  info.uid = seen->uid;
  return info;
}

psp_sockopt KernelSockets::request_for(const device::Association& association) const {
  psp_sockopt request{};
  request.token[0] = secrets_.token[0];
  request.token[1] = secrets_.token[1];
  request.rx = association.rx;
  request.tx_spi = association.tx_spi ? association.tx_spi->value : 0;
  request.tx_handle = association.tx_handle;
  if (any_state_) request.flags |= PSP_SOCKOPT_ANY_STATE;
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

// is_switched: does the socket have a Tx key? It is asked without a program that could be gone.
// Nothing: the kernel does not tell.
std::optional<bool> KernelSockets::is_switched(int fd) const noexcept {
  const auto sock = get_element<psp_sock>(programs_.maps().assoc, fd);
  if (!sock) return std::nullopt;
  return *sock && ((*sock)->state >= PSP_STATE_TX || (*sock)->pending_tx);
}

// note tells the programs which connection the socket is. One without a peer is noted by its first
// packet.
Result<void> KernelSockets::note(int fd, const psp_sock_view& view,
                                 const device::Association& association) {
  psp_noted_entry noted{};
  noted.tuple.netns = view.tuple.netns;
  if (view.connected) noted.tuple = view.tuple;
  noted.tx_spi = htonl(association.tx_spi ? association.tx_spi->value : 0);
  const auto full = [this] {
    room_.refuse();
    return fail(ENOSPC, "Too many secured sockets");
  };
  const auto insert = [&] {
    return bpf_map_update_elem(programs_.maps().noted, &association.cookie, &noted, BPF_NOEXIST);
  };
  if (insert() != 0) {
    if (errno != EEXIST) return full();
    const auto switched = is_switched(fd);
    if (!switched) return in_doubt();
    if (*switched) return fail(EBUSY, "Tx key already set");
    // What a tx-assoc has left that failed, or that a pspd was killed in.
    if (!forget(association.cookie)) return in_doubt();
    if (insert() != 0) return full();
  }
  if (!view.connected) return {};
  psp_tuple_entry entry{};
  entry.cookie = association.cookie;
  entry.epoch = secrets_.epoch;
  entry.tx_handle = association.tx_handle;
  entry.rx = association.rx;
  const psp_tx_spi spi = tx_spi_of(noted.tuple, noted.tx_spi);
  // An SPI that another connection to that peer has stays its: an SPI is what a caller says it is.
  if (bpf_map_update_elem(programs_.maps().departed, &noted.tuple, &entry, BPF_ANY) == 0 &&
      (bpf_map_update_elem(programs_.maps().by_tx_spi, &spi, &noted.tuple, BPF_NOEXIST) == 0 ||
       errno == EEXIST))
    return {};
  (void)forget(association.cookie);  // what stays goes when the socket does
  return full();
}

// refusal_of_switch is why the socket program did not switch.
Result<device::TxSwitch> KernelSockets::refusal_of_switch(int error) {
  switch (error) {
    case ENOTCONN:
      return fail(ENOTCONN, "Socket must be in established state");
    case ENOENT:
      return fail(EINVAL, "Socket has no Rx key");
    case EALREADY:
      return fail(EBUSY, "Tx key already set");
    case EBUSY:
      return fail(EBUSY, "Socket has incompatible segments already in the recv queue");
    default:
      return fail(error);
  }
}

Result<device::TxSwitch> KernelSockets::tx_attach(int fd, const device::Association& association) {
  const auto driver = drivers_.find(association.rx.dev_id);
  if (driver == drivers_.end()) return fail(ENODEV);
  const auto before = view(fd);
  if (!before) return std::unexpected(before.error());
  const bool connected = before->connected != 0;
  if (!connected && !any_state_) return fail(ENOTCONN, "Socket must be in established state");

  // Before the switch: from then on no packet of this connection may leave in clear, whatever sends
  // it.
  if (auto noted = note(fd, *before, association); !noted) return std::unexpected(noted.error());
  psp_sockopt request = request_for(association);
  if (connected) request.flags |= PSP_SOCKOPT_TUPLE_NOTED;
  if (::setsockopt(fd, PSP_SOL, PSP_SO_TX_ATTACH, &request, sizeof request) != 0) {
    const int error = errno;
    if (error == EALREADY) return refusal_of_switch(error);
    // A program of somebody else's may have refused what ours has done. Where the kernel does not
    // tell, ours is believed in its own words; else the note stays, and the key goes: should the
    // socket be switched, it is silent.
    const bool own_words = error == ENOTCONN || error == ENOENT || error == EBUSY;
    const auto switched = is_switched(fd);
    if (!switched && !own_words) return in_doubt();
    if (!switched.value_or(false)) {
      (void)forget(association.cookie);  // what stays goes when the socket does
      return refusal_of_switch(error);
    }
  }
  return connected ? finish_switch(fd, association, *driver->second, *before)
                   : device::TxSwitch::kDone;
}

// finish_switch tells the driver what it must know of the switch. Nothing here takes memory: where
// there is none, the switch has been made all the same.
device::TxSwitch KernelSockets::finish_switch(int fd, const device::Association& association,
                                              device::SoftwareDevice& driver,
                                              const psp_sock_view& before) const noexcept {
  const bool reserved = reserve_options(fd, true);
  const auto after = view(fd);
  const auto boundary = after ? std::optional(after->clear_boundary) : stored_boundary(fd);
  // Without it, no segment across the boundary could be sent, for good.
  if (!boundary) {
    if (reserved) (void)reserve_options(fd, false);
    return device::TxSwitch::kInVain;
  }
  driver.set_clear_boundary(association.netdev.netns, association.tx_handle, *boundary);
  const bool lowered = after && after->mss + kTransportOverhead == before.mss;
  if (reserved) settle_mss(fd, lowered, request_for(association));
  return device::TxSwitch::kDone;
}

// stored_boundary is where the clear octets end, without the help of a program that could be gone.
std::optional<psp_u32> KernelSockets::stored_boundary(int fd) const noexcept {
  const auto sock = get_element<psp_sock>(programs_.maps().assoc, fd);
  return sock && *sock ? std::optional((*sock)->clear_boundary) : std::nullopt;
}

// settle_mss: IPv4 options on a socket lower its MSS by their length at once, as the kernel does at
// tx-assoc. They never reach the wire: IPv6 packets do not carry them, and off IPv4 packets the
// datapath takes them. An accepted IPv6 socket does not react, and some applications have options
// of their own; then the datapath cuts segments that are too long, and the socket programs tell the
// application the MSS that results.
void KernelSockets::settle_mss(int fd, bool lowered, const psp_sockopt& request) {
  if (lowered)
    (void)::setsockopt(fd, PSP_SOL, PSP_SO_MSS_RESERVED, &request, sizeof request);
  else
    reserve_options(fd, false);
}

bool KernelSockets::forget(std::uint64_t cookie) const {
  const auto noted = get_element<psp_noted_entry>(programs_.maps().noted, cookie);
  if (!noted || !*noted) return noted.has_value();
  const psp_tuple& tuple = (*noted)->tuple;
  // A later connection with the same ports may have taken the entries over.
  const auto departed = get_element<psp_tuple_entry>(programs_.maps().departed, tuple);
  const psp_tx_spi spi = tx_spi_of(tuple, (*noted)->tx_spi);
  const auto by_spi = get_element<psp_tuple>(programs_.maps().by_tx_spi, spi);
  if (!departed || !by_spi) return false;
  if (*departed && (*departed)->cookie == cookie &&
      !remove_element(programs_.maps().departed, tuple))
    return false;
  if (*by_spi && std::memcmp(&**by_spi, &tuple, sizeof tuple) == 0 &&
      !remove_element(programs_.maps().by_tx_spi, spi))
    return false;
  // Last: by this one the others are found again.
  return remove_element(programs_.maps().noted, cookie);
}

std::optional<bool> KernelSockets::is_released(std::uint64_t cookie) const {
  const auto noted = get_element<psp_noted_entry>(programs_.maps().noted, cookie);
  if (!noted) return std::nullopt;
  return !*noted || (*noted)->released != 0;
}

}  // namespace psp::kernel
