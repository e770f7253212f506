// SPDX-License-Identifier: Apache-2.0
//
// One request at a time, without a dump: the answer is in what handle() gives at once. A reply is
// the end of it, as all operations here have one. What an error says comes from its octets, not
// from the core: a text that got lost on the way would be seen.
#include "asking.hh"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "netlink/codec.hh"
#include "netlink/family.hh"
#include <psp/netlink/uapi.h>

namespace psp::sim {
namespace {

// error_of reads a NLMSG_ERROR: its number, and the text behind the request that it quotes.
ClientError error_of(const nlmsghdr* message) {
  ClientError error;
  const auto* payload = static_cast<const std::uint8_t*>(mnl_nlmsg_get_payload(message));
  const std::size_t size = mnl_nlmsg_get_payload_len(message);
  int code = 0;
  nlmsghdr quoted;
  if (size < sizeof code + sizeof quoted) std::abort();
  std::memcpy(&code, payload, sizeof code);
  std::memcpy(&quoted, payload + sizeof code, sizeof quoted);
  error.sys_errno = -code;
  const bool capped = (message->nlmsg_flags & NLM_F_CAPPED) != 0;
  const std::size_t at = sizeof code + (capped ? sizeof quoted : NLMSG_ALIGN(quoted.nlmsg_len));
  if ((message->nlmsg_flags & NLM_F_ACK_TLVS) == 0 || at > size) return error;
  netlink::for_each_attribute({payload + at, size - at}, [&error](const nlattr* attribute) {
    if (mnl_attr_get_type(attribute) == NLMSGERR_ATTR_MSG)
      error.text = netlink::get_string(attribute);
  });
  return error;
}

}  // namespace

Asking::Asking(netlink::Server& server, std::uint64_t netns) : server_(server) {
  caller_.net_admin = true;
  caller_.netns = netns;
}

ClientResult<void> Asking::ask(std::uint8_t command, int fd, const Fill& fill,
                               const OnAnswer& on_answer) {
  netlink::Writer writer;
  writer.begin(netlink::kPspFamilyId, NLM_F_REQUEST, ++sequence_, 0, command, PSPNL_FAMILY_VERSION);
  fill(writer);
  if (!writer.end()) std::abort();
  std::vector<netlink::Datagram> answers;
  server_.handle(caller_, writer.octets(), fd, answers);
  if (answers.size() != 1) std::abort();
  const netlink::AlignedCopy copy(answers.front());
  netlink::wipe(answers.front());
  const auto* message = reinterpret_cast<const nlmsghdr*>(copy.data());
  if (!netlink::message_ok(message, copy.size()) || message->nlmsg_seq != sequence_) std::abort();
  if (message->nlmsg_type == NLMSG_ERROR) return std::unexpected(error_of(message));
  if (on_answer) on_answer(netlink::message_attributes(message));
  return {};
}

ClientResult<RxAssocInfo> Asking::rx_assoc(int fd, OfDevice device, Version version) {
  RxAssocInfo info;
  const device::AssocRequest request{.fd = fd, .dev_id = device, .version = version, .tx_key = {}};
  const auto done = ask(
      PSPNL_CMD_RX_ASSOC, fd, [&](netlink::Writer& writer) { netlink::put(writer, request); },
      [&](auto attributes) { info = netlink::read<RxAssocInfo>(attributes); });
  if (!done) return std::unexpected(done.error());
  return info;
}

ClientResult<void> Asking::tx_assoc(int fd, OfDevice device, Version version, Spi spi,
                                    std::span<const std::uint8_t> key) {
  const device::AssocRequest request{
      .fd = fd,
      .dev_id = device,
      .version = version,
      .tx_key = device::AssocRequest::Keys{.spi = spi.value, .key = key}};
  return ask(PSPNL_CMD_TX_ASSOC, fd,
             [&](netlink::Writer& writer) { netlink::put(writer, request); }, {});
}

ClientResult<void> Asking::ask(std::uint8_t command, const netlink::DeviceRequest& request) {
  return ask(command, -1, [&](netlink::Writer& writer) { netlink::put(writer, request); }, {});
}

ClientResult<void> Asking::dev_assoc(std::uint32_t device, std::uint32_t ifindex,
                                     std::int32_t nsid) {
  return ask(PSPNL_CMD_DEV_ASSOC, {.id = device, .ifindex = ifindex, .nsid = nsid});
}

ClientResult<void> Asking::dev_disassoc(std::uint32_t device, std::uint32_t ifindex,
                                        std::int32_t nsid) {
  return ask(PSPNL_CMD_DEV_DISASSOC, {.id = device, .ifindex = ifindex, .nsid = nsid});
}

ClientResult<void> Asking::key_rotate(std::uint32_t device) {
  return ask(PSPNL_CMD_KEY_ROTATE, {.id = device});
}

ClientResult<void> Asking::set_versions(std::uint32_t device, VersionSet versions) {
  return ask(PSPNL_CMD_DEV_SET, {.id = device, .versions_ena = versions});
}

}  // namespace psp::sim
