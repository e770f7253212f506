// SPDX-License-Identifier: Apache-2.0
//
// A message takes one of four ways: a request for all families and a dump of which only the
// messages are wanted are answered at once, since the kernel's own follow; a dump goes on while the
// program reads it; all else is a request with its answers. The program may know psp by the
// kernel's number: then messages are renamed on the way in and out.
#include "forwarder.hh"

#include <cerrno>
#include <deque>
#include <iterator>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <utility>
#include <vector>

#include "base/socket_options.hh"
#include <psp/netlink/uapi.h>

namespace psp::control {

netlink::Datagram Forwarder::open(const Envelope& envelope, std::span<UniqueFd> fds, uid_t uid,
                                  const MayAdminister& may) {
  if (fds.empty()) return envelope_failed(envelope, EBADF);
  const auto target = delivery_.examine(fds[0].get(), uid);
  if (!target) return envelope_failed(envelope, target.error());
  int error = 0;
  switch (envelope.kind) {
    case Envelope::Kind::kWho:
      break;
    case Envelope::Kind::kJoin:
      if (envelope.group_bit == 0)
        error = EINVAL;
      else if (!delivery_.join(*target, envelope.group_bit, uid, envelope.family))
        error = ENOMEM;
      break;
    case Envelope::Kind::kLeave:
      delivery_.leave(*target, envelope.group_bit);
      break;
    case Envelope::Kind::kMessage:
      if (target->port == 0) return envelope_failed(envelope, EINVAL);  // nowhere to answer to
      error = forward_renamed(envelope, {*target, fds[0].get(), uid},
                              fds.size() > 1 ? fds[1].get() : -1, may);
  }
  return error != 0 ? envelope_failed(envelope, error)
                    : envelope_done(envelope, delivery_.sender_port(*target));
}

// forward_renamed is forward for a message that may bear the kernel's number of the family.
int Forwarder::forward_renamed(const Envelope& envelope, const Sender& sender, int sock_fd,
                               const MayAdminister& may) {
  if (envelope.family == 0) return forward(envelope, sender, sock_fd, may);
  netlink::Datagram message(envelope.message.begin(), envelope.message.end());
  rename_messages(message, envelope.family, SOFTPSP_ID_PSP);
  Envelope ours = envelope;
  ours.message = message;
  const int error = forward(ours, sender, sock_fd, may);
  netlink::wipe(message);
  return error;
}

// send brings one answer to the program, under the names that it knows.
void Forwarder::send(const Envelope& envelope, const Sender& sender, netlink::Datagram answer) {
  address_messages(answer, sender.target.port);
  if (envelope.family != 0) rename_messages(answer, SOFTPSP_ID_PSP, envelope.family);
  delivery_.answer(sender.target, sender.netlink_fd, std::move(answer), sender.uid);
}

// forward answers one message of a program on its netlink socket. The namespace that counts is that
// socket's, as in the kernel. Returns an errno for the program's send().
int Forwarder::forward(const Envelope& envelope, const Sender& sender, int sock_fd,
                       const MayAdminister& may) {
  const std::span<const std::uint8_t> message = envelope.message;
  const auto has = [&](int option) {
    return get_option<int>(sender.netlink_fd, SOL_NETLINK, option).value_or(0) != 0;
  };
  netlink::Caller caller;
  caller.net_admin = may(message);
  caller.paced = !envelope.without_done;
  caller.netns = sender.target.netns;
  caller.ext_ack = has(NETLINK_EXT_ACK);
  caller.cap_ack = has(NETLINK_CAP_ACK);
  std::vector<netlink::Datagram> answers;
  if (asks_for_all_families(message)) {
    server_.handle(caller, ask_for_psp(message), -1, answers);
    for (netlink::Datagram& answer : answers) {
      address_messages(answer, sender.target.port, NLM_F_MULTI);
      send(envelope, sender, std::move(answer));
    }
    return 0;
  }
  if (envelope.without_done) {
    server_.handle(caller, message, -1, answers);
    for (netlink::Datagram& answer : answers) {
      cut_end(answer);
      if (!answer.empty()) send(envelope, sender, std::move(answer));
    }
    return 0;
  }
  if (asks_for_dump(message)) return dump(envelope, sender, caller, sock_fd);
  server_.handle(caller, message, sock_fd, answers);
  for (netlink::Datagram& answer : answers) send(envelope, sender, std::move(answer));
  return 0;
}

// dump answers with parts, of which the next is made when the program has read those before.
int Forwarder::dump(const Envelope& envelope, const Sender& sender, netlink::Caller caller,
                    int sock_fd) {
  if (delivery_.dumping(sender.target)) {
    send(envelope, sender, busy_error(envelope.message, caller));
    return 0;
  }
  std::vector<netlink::Datagram> answers;
  server_.handle(caller, envelope.message, sock_fd, answers);
  std::deque<netlink::Datagram> parts(std::make_move_iterator(answers.begin()),
                                      std::make_move_iterator(answers.end()));
  auto rest = [&server = server_, caller, parts = std::move(parts), port = sender.target.port,
               family = envelope.family]() mutable -> std::optional<netlink::Datagram> {
    if (parts.empty()) {
      std::vector<netlink::Datagram> more;
      if (!server.resume(caller, more)) return std::nullopt;
      if (more.empty()) return netlink::Datagram();  // there will be some later
      parts.assign(std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
    }
    netlink::Datagram part = std::move(parts.front());
    parts.pop_front();
    address_messages(part, port);
    if (family != 0) rename_messages(part, SOFTPSP_ID_PSP, family);
    return part;
  };
  return delivery_.dump(sender.target, sender.netlink_fd, std::move(rest), sender.uid) ? 0
                                                                                       : ENOBUFS;
}

}  // namespace psp::control
