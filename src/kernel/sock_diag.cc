// SPDX-License-Identifier: Apache-2.0
//
// inet_diag with INET_DIAG_SK_BPF_STORAGES, which lists sockets with their entry in psp_assoc, and
// the multicast groups of closed sockets. An entry of another size is another version's: it counts
// as secured.
//
// Threading: see sock_diag.hh.
#include "sock_diag.hh"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <memory>
#include <netinet/in.h>
#include <sys/socket.h>

#include "base/netlink_socket.hh"
#include "base/socket_options.hh"
#include "device/state_table.h"

namespace psp::kernel {
namespace {

constexpr std::size_t kBuffer = 64 * 1024;

// find_attribute is the first attribute of that type in a run of `octets` octets, or null.
const nlattr* find_attribute(const void* run, std::size_t octets, std::uint16_t type) {
  const auto* attr = static_cast<const nlattr*>(run);
  for (int left = static_cast<int>(octets); mnl_attr_ok(attr, left);) {
    if (mnl_attr_get_type(attr) == type) return attr;
    left -= static_cast<int>(MNL_ALIGN(mnl_attr_get_len(attr)));
    attr = mnl_attr_next(attr);
  }
  return nullptr;
}

const nlattr* find_nested(const nlattr* parent, std::uint16_t type) {
  if (parent == nullptr) return nullptr;
  return find_attribute(mnl_attr_get_payload(parent), mnl_attr_get_payload_len(parent), type);
}

// find_storage digs the value out of INET_DIAG_SK_BPF_STORAGES { SK_DIAG_BPF_STORAGE { value } }.
bool find_storage(const nlmsghdr* message, psp_sock& assoc) {
  const nlattr* storages =
      find_attribute(mnl_nlmsg_get_payload_offset(message, sizeof(inet_diag_msg)),
                     mnl_nlmsg_get_payload_len(message) - MNL_ALIGN(sizeof(inet_diag_msg)),
                     INET_DIAG_SK_BPF_STORAGES);
  const nlattr* value =
      find_nested(find_nested(storages, SK_DIAG_BPF_STORAGE), SK_DIAG_BPF_STORAGE_MAP_VALUE);
  if (value == nullptr) return false;
  if (mnl_attr_get_payload_len(value) == sizeof assoc)
    std::memcpy(&assoc, mnl_attr_get_payload(value), sizeof assoc);
  else
    assoc.state = PSP_STATE_TX;  // of another version of pspd: take it for secured
  return true;
}

struct Dump {
  unsigned family;
  std::vector<SecuredSocket>* sockets;
};

void on_socket(const nlmsghdr& message, const Dump& dump) {
  if (message.nlmsg_len < NLMSG_LENGTH(sizeof(inet_diag_msg))) return;
  const auto* socket = static_cast<const inet_diag_msg*>(mnl_nlmsg_get_payload(&message));
  SecuredSocket secured;
  if (!find_storage(&message, secured.assoc)) return;
  secured.family = dump.family;
  secured.tcp_state = socket->idiag_state;
  secured.id = socket->id;
  dump.sockets->push_back(secured);
}

std::expected<void, std::string> dump_family(const NetlinkSocket& nl, std::uint8_t family,
                                             int assoc_map, Dump dump) {
  std::vector<char> buffer(kBuffer);
  const auto [request, diag] =
      start_request<inet_diag_req_v2>(buffer, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP);
  diag->sdiag_family = family;
  diag->sdiag_protocol = IPPROTO_TCP;
  diag->idiag_states = ~0u;
  nlattr* storages = mnl_attr_nest_start(request, INET_DIAG_REQ_SK_BPF_STORAGES);
  mnl_attr_put_u32(request, SK_DIAG_BPF_STORAGE_REQ_MAP_FD, static_cast<std::uint32_t>(assoc_map));
  mnl_attr_nest_end(request, storages);
  if (!nl.dump(buffer, [&](const nlmsghdr& message) { on_socket(message, dump); }))
    return std::unexpected(
        fmt::format("the kernel does not list TCP sockets with their associations (needs "
                    "CONFIG_INET_DIAG): {}",
                    std::strerror(errno)));
  return {};
}

}  // namespace

std::expected<std::vector<SecuredSocket>, std::string> secured_sockets(int assoc_map) {
  const NetlinkSocket nl(NETLINK_SOCK_DIAG);
  if (!nl) return std::unexpected(fmt::format("cannot open sock_diag: {}", std::strerror(errno)));
  std::vector<SecuredSocket> sockets;
  for (const auto& [family, number] : {std::pair{AF_INET, 4u}, std::pair{AF_INET6, 6u}})
    if (auto done =
            dump_family(nl, static_cast<std::uint8_t>(family), assoc_map, Dump{number, &sockets});
        !done)
      return std::unexpected(done.error());
  return sockets;
}

int destroy_socket(const SecuredSocket& socket) {
  const NetlinkSocket nl(NETLINK_SOCK_DIAG);
  if (!nl) return errno;
  std::array<char, 4096> buffer;
  auto* const diag = start_request<inet_diag_req_v2>(buffer, SOCK_DESTROY, NLM_F_ACK).header;
  diag->sdiag_family = socket.family == 4 ? AF_INET : AF_INET6;
  diag->sdiag_protocol = IPPROTO_TCP;
  diag->idiag_states = ~0u;
  diag->id = socket.id;
  return nl.exchange(buffer) ? 0 : errno;
}

std::expected<DestroyEvents, std::string> DestroyEvents::open() {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG));
  // Many sockets may go at once; what does not fit is found again by secured_sockets.
  constexpr int kRoom = 4 * 1024 * 1024;
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = 1u << (SKNLGRP_INET_TCP_DESTROY - 1) | 1u << (SKNLGRP_INET6_TCP_DESTROY - 1);
  if (!fd || !set_option(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, kRoom) ||
      !set_option(fd.get(), SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1) ||
      ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0)
    return std::unexpected(
        fmt::format("cannot hear of closed sockets (needs CONFIG_INET_DIAG and CAP_NET_ADMIN): {}",
                    std::strerror(errno)));
  return DestroyEvents(std::move(fd));
}

DestroyEvents::Heard DestroyEvents::read(const std::function<void(const SecuredSocket&)>& gone) {
  constexpr int kAtOnce = 256;
  alignas(nlmsghdr) char buffer[8192];
  for (int burst = 0; burst < kAtOnce; burst++) {
    sockaddr_nl from{};
    socklen_t length = sizeof from;
    const ssize_t n = ::recvfrom(fd_.get(), buffer, sizeof buffer, 0,
                                 reinterpret_cast<sockaddr*>(&from), &length);
    if (n < 0) return errno == ENOBUFS ? Heard::kLost : Heard::kAll;
    // Root of any namespace may send to the group there, and say that another's socket has gone.
    if (from.nl_pid != 0) continue;
    int left = static_cast<int>(n);
    for (const auto* message = reinterpret_cast<const nlmsghdr*>(buffer);
         mnl_nlmsg_ok(message, left); message = mnl_nlmsg_next(message, &left)) {
      if (message->nlmsg_len < NLMSG_LENGTH(sizeof(inet_diag_msg))) continue;
      const auto* socket = static_cast<const inet_diag_msg*>(mnl_nlmsg_get_payload(message));
      SecuredSocket closed;
      closed.family = socket->idiag_family == AF_INET ? 4 : 6;
      closed.tcp_state = socket->idiag_state;
      closed.id = socket->id;
      gone(closed);
    }
  }
  return Heard::kMore;
}

}  // namespace psp::kernel
