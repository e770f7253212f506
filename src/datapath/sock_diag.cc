// SPDX-License-Identifier: Apache-2.0
#include "sock_diag.hh"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <libmnl/libmnl.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <memory>
#include <netinet/in.h>
#include <sys/socket.h>

#include <psp/device/state_table.h>

namespace psp::datapath {
namespace {

constexpr std::size_t kBuffer = 64 * 1024;

using Socket = std::unique_ptr<mnl_socket, int (*)(mnl_socket*)>;

Socket open_diag() {
  Socket nl(mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC), mnl_socket_close);
  if (nl && mnl_socket_bind(nl.get(), 0, MNL_SOCKET_AUTOPID) < 0) nl.reset();
  return nl;
}

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

int on_socket(const nlmsghdr* message, void* data) {
  auto* dump = static_cast<Dump*>(data);
  if (message->nlmsg_len < NLMSG_LENGTH(sizeof(inet_diag_msg))) return MNL_CB_OK;
  const auto* socket = static_cast<const inet_diag_msg*>(mnl_nlmsg_get_payload(message));
  SecuredSocket secured;
  if (!find_storage(message, secured.assoc)) return MNL_CB_OK;
  secured.family = dump->family;
  secured.tcp_state = socket->idiag_state;
  secured.id = socket->id;
  dump->sockets->push_back(secured);
  return MNL_CB_OK;
}

std::expected<void, std::string> dump_family(mnl_socket* nl, std::uint8_t family, int assoc_map,
                                             Dump dump) {
  std::vector<char> buffer(kBuffer);
  nlmsghdr* request = mnl_nlmsg_put_header(buffer.data());
  request->nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  auto* diag =
      static_cast<inet_diag_req_v2*>(mnl_nlmsg_put_extra_header(request, sizeof(inet_diag_req_v2)));
  diag->sdiag_family = family;
  diag->sdiag_protocol = IPPROTO_TCP;
  diag->idiag_states = ~0u;
  nlattr* storages = mnl_attr_nest_start(request, INET_DIAG_REQ_SK_BPF_STORAGES);
  mnl_attr_put_u32(request, SK_DIAG_BPF_STORAGE_REQ_MAP_FD, static_cast<std::uint32_t>(assoc_map));
  mnl_attr_nest_end(request, storages);
  if (mnl_socket_sendto(nl, request, request->nlmsg_len) < 0)
    return std::unexpected(fmt::format("cannot ask for TCP sockets: {}", std::strerror(errno)));
  for (int more = MNL_CB_OK; more > MNL_CB_STOP;) {
    const ssize_t n = mnl_socket_recvfrom(nl, buffer.data(), buffer.size());
    if (n >= 0)
      more = mnl_cb_run(buffer.data(), static_cast<std::size_t>(n), 0, mnl_socket_get_portid(nl),
                        on_socket, &dump);
    if (n < 0 || more < 0)
      return std::unexpected(
          fmt::format("the kernel does not list TCP sockets with their associations (needs "
                      "CONFIG_INET_DIAG): {}",
                      std::strerror(errno)));
  }
  return {};
}

}  // namespace

std::expected<std::vector<SecuredSocket>, std::string> secured_sockets(int assoc_map) {
  const Socket nl = open_diag();
  if (!nl) return std::unexpected(fmt::format("cannot open sock_diag: {}", std::strerror(errno)));
  std::vector<SecuredSocket> sockets;
  for (const auto& [family, number] : {std::pair{AF_INET, 4u}, std::pair{AF_INET6, 6u}})
    if (auto done = dump_family(nl.get(), static_cast<std::uint8_t>(family), assoc_map,
                                Dump{number, &sockets});
        !done)
      return std::unexpected(done.error());
  return sockets;
}

int destroy_socket(const SecuredSocket& socket) {
  const Socket nl = open_diag();
  if (!nl) return errno;
  std::array<char, 4096> buffer;
  nlmsghdr* request = mnl_nlmsg_put_header(buffer.data());
  request->nlmsg_type = SOCK_DESTROY;
  request->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  auto* diag =
      static_cast<inet_diag_req_v2*>(mnl_nlmsg_put_extra_header(request, sizeof(inet_diag_req_v2)));
  diag->sdiag_family = socket.family == 4 ? AF_INET : AF_INET6;
  diag->sdiag_protocol = IPPROTO_TCP;
  diag->idiag_states = ~0u;
  diag->id = socket.id;
  if (mnl_socket_sendto(nl.get(), request, request->nlmsg_len) < 0) return errno;
  const ssize_t n = mnl_socket_recvfrom(nl.get(), buffer.data(), buffer.size());
  if (n < 0) return errno;
  if (mnl_cb_run(buffer.data(), static_cast<std::size_t>(n), 0, mnl_socket_get_portid(nl.get()),
                 nullptr, nullptr) >= 0)
    return 0;
  return errno == ENOENT ? 0 : errno;
}

std::expected<DestroyEvents, std::string> DestroyEvents::open() {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG));
  // Many sockets may go at once; what does not fit is found again by secured_sockets.
  const int buffer = 4 * 1024 * 1024, on = 1;
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = 1u << (SKNLGRP_INET_TCP_DESTROY - 1) | 1u << (SKNLGRP_INET6_TCP_DESTROY - 1);
  if (!fd || ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer) != 0 ||
      ::setsockopt(fd.get(), SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, &on, sizeof on) != 0 ||
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
    const ssize_t n = ::recv(fd_.get(), buffer, sizeof buffer, 0);
    if (n < 0) return errno == ENOBUFS ? Heard::kLost : Heard::kAll;
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

}  // namespace psp::datapath
