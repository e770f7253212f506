// SPDX-License-Identifier: Apache-2.0
//
// Messages are cut apart as the kernel does it, octet by octet: what is carried here is anybody's,
// and need not be aligned, whole or true. The first message whose length cannot be ends the walk,
// and what follows it is nobody's.
//
// Nothing in here decides who may do what. needs_net_admin says only whether the capability is
// worth asking for, which costs system calls; the Server checks it where it is needed.
#include "envelope.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <linux/genetlink.h>
#include <linux/netlink.h>

#include "netlink/privilege.hh"
#include <psp/netlink/uapi.h>

namespace psp::control {
namespace {

using Octets = std::span<const std::uint8_t>;

constexpr std::size_t kHeaders = NLMSG_HDRLEN + GENL_HDRLEN;

// read_at copies a structure out of octets that need not be aligned.
template <typename T>
std::optional<T> read_at(Octets octets, std::size_t at) {
  if (at > octets.size() || octets.size() - at < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, octets.data() + at, sizeof value);
  return value;
}

template <typename T>
void append(netlink::Datagram& datagram, const T& value) {
  const auto* octets = reinterpret_cast<const std::uint8_t*>(&value);
  datagram.insert(datagram.end(), octets, octets + sizeof value);
}

// for_each_message visits the messages as the kernel cuts them: (offset, header), until the visitor
// returns false.
template <typename Visit>
void for_each_message(Octets octets, Visit&& visit) {
  for (std::size_t at = 0; at < octets.size();) {
    const auto header = read_at<nlmsghdr>(octets, at);
    if (!header || header->nlmsg_len < NLMSG_HDRLEN || header->nlmsg_len > octets.size() - at)
      return;
    if (!visit(at, *header)) return;
    at += std::min<std::size_t>(NLMSG_ALIGN(std::size_t{header->nlmsg_len}), octets.size() - at);
  }
}

std::uint8_t command(Octets octets, std::size_t at) {
  return read_at<std::uint8_t>(octets, at + NLMSG_HDRLEN).value_or(0);
}

std::uint32_t group_bit_of(std::uint32_t id) {
  if (id == SOFTPSP_ID_GROUP_MGMT) return SOFTPSP_GROUP_MGMT;
  if (id == SOFTPSP_ID_GROUP_USE) return SOFTPSP_GROUP_USE;
  return 0;
}

}  // namespace

bool is_envelope(Octets datagram) {
  const auto header = read_at<nlmsghdr>(datagram, 0);
  return header && header->nlmsg_type == SOFTPSP_ID_SOFTPSP && datagram.size() >= kHeaders &&
         command(datagram, 0) == SOFTPSP_CMD_FORWARD;
}

std::optional<Envelope> read_envelope(Octets datagram) {
  const auto header = read_at<nlmsghdr>(datagram, 0);
  const auto attribute = read_at<nlattr>(datagram, kHeaders);
  if (!header || !attribute || attribute->nla_len < NLA_HDRLEN ||
      attribute->nla_len > datagram.size() - kHeaders)
    return std::nullopt;
  Envelope envelope;
  envelope.seq = header->nlmsg_seq;
  envelope.port = header->nlmsg_pid;
  const Octets value = datagram.subspan(kHeaders + NLA_HDRLEN, attribute->nla_len - NLA_HDRLEN);
  switch (attribute->nla_type) {
    case SOFTPSP_FORWARD_MESSAGE:
      envelope.kind = Envelope::Kind::kMessage;
      envelope.message = value;
      return envelope;
    case SOFTPSP_FORWARD_BESIDE:
    case SOFTPSP_FORWARD_WITHOUT_DONE: {
      const auto about = read_at<nlmsghdr>(value, 0);
      if (!about) return std::nullopt;
      envelope.kind = Envelope::Kind::kMessage;
      envelope.message = value;
      envelope.family = about->nlmsg_type;
      envelope.without_done = attribute->nla_type == SOFTPSP_FORWARD_WITHOUT_DONE;
      return envelope;
    }
    case SOFTPSP_FORWARD_JOIN:
    case SOFTPSP_FORWARD_LEAVE:
      envelope.kind = attribute->nla_type == SOFTPSP_FORWARD_JOIN ? Envelope::Kind::kJoin
                                                                  : Envelope::Kind::kLeave;
      envelope.group_bit = group_bit_of(read_at<std::uint32_t>(value, 0).value_or(0));
      envelope.family = static_cast<std::uint16_t>(
          read_at<std::uint32_t>(value, sizeof(std::uint32_t)).value_or(0));
      return envelope;
    case SOFTPSP_FORWARD_WHO:
      return envelope;
    default:
      return std::nullopt;
  }
}

netlink::Datagram envelope_done(const Envelope& envelope, std::uint32_t sender_port) {
  netlink::Datagram reply;
  append(reply, nlmsghdr{.nlmsg_len = kHeaders + NLA_HDRLEN + sizeof sender_port,
                         .nlmsg_type = SOFTPSP_ID_SOFTPSP,
                         .nlmsg_flags = 0,
                         .nlmsg_seq = envelope.seq,
                         .nlmsg_pid = envelope.port});
  append(reply,
         genlmsghdr{.cmd = SOFTPSP_CMD_FORWARD, .version = SOFTPSP_FAMILY_VERSION, .reserved = 0});
  append(reply,
         nlattr{.nla_len = NLA_HDRLEN + sizeof sender_port, .nla_type = SOFTPSP_FORWARD_SENDER});
  append(reply, sender_port);
  return reply;
}

namespace {

// error_about makes a NLMSG_ERROR that quotes `quoted`.
netlink::Datagram error_about(Octets quoted, std::uint32_t seq, std::uint32_t port, int sys_errno,
                              bool capped) {
  netlink::Datagram reply;
  append(reply, nlmsghdr{.nlmsg_len =
                             static_cast<std::uint32_t>(NLMSG_HDRLEN + sizeof(int) + quoted.size()),
                         .nlmsg_type = NLMSG_ERROR,
                         .nlmsg_flags = static_cast<std::uint16_t>(capped ? NLM_F_CAPPED : 0),
                         .nlmsg_seq = seq,
                         .nlmsg_pid = port});
  append(reply, -sys_errno);
  reply.insert(reply.end(), quoted.begin(), quoted.end());
  return reply;
}

}  // namespace

netlink::Datagram envelope_failed(const Envelope& envelope, int sys_errno) {
  const nlmsghdr about{.nlmsg_len = NLMSG_HDRLEN,
                       .nlmsg_type = SOFTPSP_ID_SOFTPSP,
                       .nlmsg_flags = NLM_F_REQUEST,
                       .nlmsg_seq = envelope.seq,
                       .nlmsg_pid = envelope.port};
  return error_about({reinterpret_cast<const std::uint8_t*>(&about), sizeof about}, envelope.seq,
                     envelope.port, sys_errno, true);
}

std::size_t size_of_messages(Octets octets, std::size_t count) {
  std::size_t size = 0, seen = 0;
  for_each_message(octets, [&](std::size_t at, const nlmsghdr& header) {
    if (seen++ < count)
      size = std::min<std::size_t>(at + NLMSG_ALIGN(std::size_t{header.nlmsg_len}), octets.size());
    return seen < count;
  });
  return size;
}

bool needs_net_admin(Octets messages) {
  bool needs = false;
  for_each_message(messages, [&](std::size_t at, const nlmsghdr& header) {
    needs = netlink::may_need_net_admin(header.nlmsg_type, command(messages, at));
    return !needs;
  });
  return needs;
}

bool asks_for_dump(Octets messages) {
  const auto header = read_at<nlmsghdr>(messages, 0);
  return header && (header->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
}

bool asks_for_all_families(Octets messages) {
  const auto header = read_at<nlmsghdr>(messages, 0);
  return header && header->nlmsg_type == GENL_ID_CTRL && asks_for_dump(messages) &&
         command(messages, 0) == CTRL_CMD_GETFAMILY;
}

netlink::Datagram ask_for_psp(Octets request) {
  static constexpr char kName[] = PSPNL_FAMILY_NAME;
  const auto header = read_at<nlmsghdr>(request, 0).value_or(nlmsghdr{});
  netlink::Datagram asked;
  append(asked, nlmsghdr{.nlmsg_len = kHeaders + NLA_HDRLEN + sizeof kName,
                         .nlmsg_type = GENL_ID_CTRL,
                         .nlmsg_flags = NLM_F_REQUEST,
                         .nlmsg_seq = header.nlmsg_seq,
                         .nlmsg_pid = header.nlmsg_pid});
  append(asked, genlmsghdr{.cmd = CTRL_CMD_GETFAMILY, .version = 1, .reserved = 0});
  append(asked, nlattr{.nla_len = NLA_HDRLEN + sizeof kName, .nla_type = CTRL_ATTR_FAMILY_NAME});
  append(asked, kName);
  return asked;
}

netlink::Datagram busy_error(Octets request, const netlink::Caller& caller) {
  const auto header = read_at<nlmsghdr>(request, 0).value_or(nlmsghdr{});
  const std::size_t quoted = caller.cap_ack ? NLMSG_HDRLEN : request.size();
  return error_about(request.first(std::min(quoted, request.size())), header.nlmsg_seq,
                     header.nlmsg_pid, EBUSY, caller.cap_ack);
}

void rename_messages(netlink::Datagram& messages, std::uint16_t from, std::uint16_t to) {
  const auto rename = [&](std::size_t at) {
    auto header = read_at<nlmsghdr>(messages, at);
    if (!header || header->nlmsg_type != from) return;
    header->nlmsg_type = to;
    std::memcpy(messages.data() + at, &*header, sizeof *header);
  };
  for_each_message(messages, [&](std::size_t at, const nlmsghdr& header) {
    rename(header.nlmsg_type == NLMSG_ERROR ? at + NLMSG_HDRLEN + sizeof(int) : at);
    return true;
  });
}

void cut_end(netlink::Datagram& messages) {
  std::size_t end = messages.size();
  for_each_message(messages, [&](std::size_t at, const nlmsghdr& header) {
    if (header.nlmsg_type >= NLMSG_MIN_TYPE) return true;
    end = at;
    return false;
  });
  messages.resize(end);
}

void address_messages(netlink::Datagram& messages, std::uint32_t port, std::uint16_t flags) {
  for_each_message(messages, [&](std::size_t at, nlmsghdr header) {
    header.nlmsg_pid = port;
    if (header.nlmsg_type >= NLMSG_MIN_TYPE) header.nlmsg_flags |= flags;
    std::memcpy(messages.data() + at, &header, sizeof header);
    return true;
  });
}

}  // namespace psp::control
