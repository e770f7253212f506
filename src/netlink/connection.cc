// SPDX-License-Identifier: Apache-2.0
//
// Requests and their answers. What a request is refused with is an NLMSG_ERROR, or NLMSG_DONE at
// the end of a dump, with attributes that say more (NETLINK_EXT_ACK). An answer with another
// sequence number is of a request that was given up, and is passed over. One buffer takes all that
// comes and is wiped behind each message. That a dump was interrupted (NLM_F_DUMP_INTR) is noted:
// whoever lists asks again (connection.hh).
#include "netlink/connection.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "netlink/names.hh"

namespace psp::netlink {
namespace {

constexpr std::size_t kReceiveBuffer = 65536;  // the kernel's dumps come in at most 32 KiB

void read_extack(ClientError& error, std::span<const std::uint8_t> octets,
                 const nlmsghdr* request) {
  std::uint32_t missing = 0, nest = 0;
  for_each_attribute(octets, [&](const nlattr* attribute) {
    switch (mnl_attr_get_type(attribute)) {
      case NLMSGERR_ATTR_MSG:
        error.text = get_string(attribute);
        break;
      case NLMSGERR_ATTR_OFFS:
        error.bad_attribute = attribute_at(request, get_u32(attribute));
        break;
      case NLMSGERR_ATTR_MISS_TYPE:
        missing = get_u32(attribute);
        break;
      case NLMSGERR_ATTR_MISS_NEST:
        nest = get_u32(attribute);
        break;
      default:
        break;
    }
  });
  if (missing != 0) error.missing_attribute = missing_attribute(request, missing, nest);
}

// read_error decodes NLMSG_ERROR and NLMSG_DONE; sys_errno 0 is success.
ClientError read_error(const nlmsghdr* answer, const nlmsghdr* request) {
  ClientError error;
  const auto* payload = static_cast<const std::uint8_t*>(mnl_nlmsg_get_payload(answer));
  const std::size_t size = mnl_nlmsg_get_payload_len(answer);
  int code = 0;
  std::size_t used = sizeof code;
  if (answer->nlmsg_type == NLMSG_ERROR) {
    used += sizeof(nlmsghdr);
    if (size < used) {
      error.sys_errno = EPROTO;
      return error;
    }
    nlmsghdr quoted;
    std::memcpy(&quoted, payload + sizeof code, sizeof quoted);
    if ((answer->nlmsg_flags & NLM_F_CAPPED) == 0)
      used = sizeof code + std::max<std::size_t>(NLMSG_ALIGN(quoted.nlmsg_len), sizeof quoted);
  }
  if (size >= sizeof code) std::memcpy(&code, payload, sizeof code);
  error.sys_errno = -code;
  if ((answer->nlmsg_flags & NLM_F_ACK_TLVS) != 0 && size > used)
    read_extack(error, {payload + used, size - used}, request);
  return error;
}

}  // namespace

Connection::Connection(Transport transport)
    : transport_(std::move(transport)), buffer_(kReceiveBuffer / sizeof(std::uint64_t)) {}

ClientResult<void> Connection::receive(const std::function<bool(const nlmsghdr*)>& visit) {
  auto* const octets = reinterpret_cast<std::uint8_t*>(buffer_.data());
  const auto size = transport_.receive({octets, kReceiveBuffer});
  if (!size) return std::unexpected(size.error());
  for (std::size_t at = 0; *size - at >= NLMSG_HDRLEN;) {
    const auto* message = reinterpret_cast<const nlmsghdr*>(octets + at);
    if (!message_ok(message, *size - at) || !visit(message)) break;
    at += std::min<std::size_t>(NLMSG_ALIGN(message->nlmsg_len), *size - at);
  }
  explicit_bzero(octets, *size);
  return {};
}

ClientResult<bool> Connection::take(const RequestHead& head, const nlmsghdr* request,
                                    const nlmsghdr* message, const OnAnswer& on_answer) {
  if (message->nlmsg_seq != seq_) return false;  // of a request that was given up
  interrupted_ = interrupted_ || (message->nlmsg_flags & NLM_F_DUMP_INTR) != 0;
  if (message->nlmsg_type == NLMSG_ERROR || message->nlmsg_type == NLMSG_DONE) {
    ClientError error = read_error(message, request);
    if (error.sys_errno != 0) return refusal(head.what, std::move(error));
    return true;
  }
  if (message->nlmsg_type != head.family) return false;
  if (on_answer) on_answer(message_attributes(message));
  return !head.dump && !head.acknowledged;
}

ClientResult<void> Connection::ask(const RequestHead& head, const Fill& fill,
                                   const OnAnswer& on_answer) {
  Writer request;
  ++seq_;
  interrupted_ = false;
  request.begin(head.family, head.flags(), seq_, 0, head.cmd, head.version);
  if (fill) fill(request);
  if (!request.end()) return client_error(EMSGSIZE, "the request is too long");
  if (auto sent = transport_.send(request.octets(), head.attached); !sent)
    return failed_to(head.what, sent.error());
  const auto* sent = reinterpret_cast<const nlmsghdr*>(request.octets().data());
  ClientResult<bool> last = false;
  while (last && !*last) {
    const auto received = receive([&](const nlmsghdr* message) {
      last = take(head, sent, message, on_answer);
      return last && !*last;
    });
    if (!received) return failed_to(head.what, received.error());
  }
  if (!last) return std::unexpected(last.error());
  return {};
}

}  // namespace psp::netlink
