// SPDX-License-Identifier: Apache-2.0
//
// One request to the kernel by netlink (routes, links, sockets), and its answer. The socket is of
// the network namespace of the thread that opened it. Whoever has CAP_NET_ADMIN there, root of a
// container for one, could send to it: it is connected to the kernel, which refuses them.
//
// Threading: one thread. Errors: errno.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <libmnl/libmnl.h>
#include <memory>
#include <span>

namespace psp {

class NetlinkSocket {
 public:
  // A socket of that bus, NETLINK_ROUTE for one. False: none was to be had, errno says why.
  explicit NetlinkSocket(int bus);
  explicit operator bool() const { return socket_ != nullptr; }
  int fd() const { return mnl_socket_get_fd(socket_.get()); }

  // Each of these gives up when nothing has come for five seconds.
  // ask sends the request that `room` holds and reads the one answer, whatever it is, in its place.
  // Returns its length, or -1.
  ssize_t ask(std::span<char> room) const;
  // exchange does the same and looks at the answer. False: errno is what the kernel refuses with.
  bool exchange(std::span<char> room) const;
  // dump sends the request that `room` holds and hands each message of the answer to `visit`.
  bool dump(std::span<char> room, const std::function<void(const nlmsghdr&)>& visit) const;

 private:
  ssize_t receive(std::span<char> room) const;

  std::unique_ptr<mnl_socket, int (*)(mnl_socket*)> socket_;
};

// Request is a message that is being put together, and the header of its own kind within.
template <typename Header>
struct Request {
  nlmsghdr* message;
  Header* header;
};

// start_request begins one in `room`, which the answer needs too. The header is all zero; libmnl
// puts attributes behind it.
template <typename Header>
Request<Header> start_request(std::span<char> room, std::uint16_t type, unsigned flags = 0) {
  nlmsghdr* const message = mnl_nlmsg_put_header(room.data());
  message->nlmsg_type = type;
  message->nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
  return {message, static_cast<Header*>(mnl_nlmsg_put_extra_header(message, sizeof(Header)))};
}

// for_each_attribute calls `visit(attribute)` for those that follow a message's own header, of
// `header` octets; the second form for those inside another. (libmnl's macros are C only.)
template <typename Visit>
void for_each_attribute(const void* first, const void* end, Visit visit) {
  const auto* attribute = static_cast<const nlattr*>(first);
  const auto left = [end](const nlattr* from) {
    return static_cast<int>(static_cast<const char*>(end) - reinterpret_cast<const char*>(from));
  };
  for (; mnl_attr_ok(attribute, left(attribute)); attribute = mnl_attr_next(attribute))
    visit(attribute);
}

template <typename Visit>
void for_each_attribute(const nlmsghdr* message, std::size_t header, Visit visit) {
  for_each_attribute(mnl_nlmsg_get_payload_offset(message, header),
                     mnl_nlmsg_get_payload_tail(message), visit);
}

template <typename Visit>
void for_each_attribute(const nlattr* nest, Visit visit) {
  const auto* payload = static_cast<const char*>(mnl_attr_get_payload(nest));
  for_each_attribute(payload, payload + mnl_attr_get_payload_len(nest), visit);
}

}  // namespace psp
