// SPDX-License-Identifier: Apache-2.0
//
// A request on its way through the server: the message, who sent it, what came with it, and where
// its answers go. Each operation of a family gets one that has passed all checks of its policy.
// What its policy cannot check, such as an attribute that must be there, an operation demands by
// require(), which names it as the kernel does. Everything is borrowed, for the time of one call.
#pragma once

#include <cstdint>
#include <vector>

#include "device/error.hh"
#include "netlink/caller.hh"
#include "netlink/codec.hh"
#include "netlink/dump.hh"
#include "netlink/family.hh"
#include "netlink/messages/message.hh"

namespace psp::netlink {

// Request is one message.
struct Request {
  Caller& caller;
  const nlmsghdr* header;
  const Family& family;
  int fd;  // the descriptor that came with it, borrowed, or -1
  std::vector<Datagram>& out;
  Attributes attributes{};
  ExtAck ack{};

  std::uint8_t cmd() const {
    return static_cast<const genlmsghdr*>(mnl_nlmsg_get_payload(header))->cmd;
  }
  bool wants_dump() const { return (header->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP; }
  const nlattr* find(std::uint16_t type) const { return attributes[type]; }

  // as reads the attributes as those of a message.
  template <typename Message>
  Message as() const {
    return read<Message>(message_attributes(header));
  }

  // require is GENL_REQ_ATTR_CHECK.
  bool require(std::uint16_t type);

  // head is that of a reply, as the kernel's genlmsg_iput makes it. Parts of a dump look the same:
  // NLM_F_MULTI stands only on the NLMSG_DONE behind them.
  MessageHead head() const;

  // reply answers with a message, or with one that has no attribute. 0 or -EMSGSIZE.
  template <typename Message>
  int reply(const Message& message) {
    Writer writer;
    head().begin(writer);
    put(writer, message);
    return send(writer);
  }
  int reply();
  // send ends the message that `writer` has begun, and answers with it.
  int send(Writer& writer);

  // refuse turns the core's error into the kernel's and returns its negative errno.
  int refuse(const device::Error& error);
};

}  // namespace psp::netlink
