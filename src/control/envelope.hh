// SPDX-License-Identifier: Apache-2.0
//
// The envelope in which libpsp-genl.so hands on what a program sent on its netlink socket
// (SOFTPSP_CMD_FORWARD), and what must be known of netlink messages to carry them: who may answer,
// how long, under which port. What they mean is the Server's business.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "netlink/server.hh"

namespace psp::control {

// Envelope is a request of the library.
struct Envelope {
  enum class Kind { kMessage, kJoin, kLeave, kWho } kind = Kind::kWho;
  std::span<const std::uint8_t> message{};  // kMessage: points into the datagram
  std::uint32_t group_bit = 0;              // kJoin, kLeave; 0: no such group
  std::uint16_t family = 0;   // the kernel's id of psp that messages to the program bear; 0: ours
  bool without_done = false;  // of a dump no NLMSG_DONE is wanted
  std::uint32_t seq = 0, port = 0;  // for the reply
};

// is_envelope: this datagram is for read_envelope, not for the Server.
bool is_envelope(std::span<const std::uint8_t> datagram);
// read_envelope parses it; nullopt if it is malformed.
std::optional<Envelope> read_envelope(std::span<const std::uint8_t> datagram);
// envelope_done and envelope_failed are the two replies.
netlink::Datagram envelope_done(const Envelope& envelope, std::uint32_t sender_port);
netlink::Datagram envelope_failed(const Envelope& envelope, int sys_errno);

// size_of_messages is the length of the first `count` messages, or all if there are fewer; 0 if not
// even one is there.
std::size_t size_of_messages(std::span<const std::uint8_t> octets, std::size_t count);
// needs_net_admin: some message asks for what only CAP_NET_ADMIN may do, so that the capability is
// worth looking at.
bool needs_net_admin(std::span<const std::uint8_t> messages);
// asks_for_dump: the first message is a request for a dump.
bool asks_for_dump(std::span<const std::uint8_t> messages);
// asks_for_all_families: it is a dump of nlctrl's families.
bool asks_for_all_families(std::span<const std::uint8_t> messages);
// ask_for_psp is the request for the one family, with the number of `request`.
netlink::Datagram ask_for_psp(std::span<const std::uint8_t> request);
// busy_error is the kernel's answer to a dump while another runs on the same socket.
netlink::Datagram busy_error(std::span<const std::uint8_t> request, const netlink::Caller& caller);
// rename_messages makes messages of family `from` those of family `to`, quoted ones too.
void rename_messages(netlink::Datagram& messages, std::uint16_t from, std::uint16_t to);
// cut_end takes the end off a dump, if it is there; empty if there is nothing before it.
void cut_end(netlink::Datagram& messages);
// address_messages gives every message the port of the socket that it goes to, as the kernel does,
// and sets `flags` in those that are generic netlink.
void address_messages(netlink::Datagram& messages, std::uint32_t port, std::uint16_t flags = 0);

}  // namespace psp::control
