// SPDX-License-Identifier: Apache-2.0
//
// What all operations do with a request: ask for an attribute, answer, refuse. An error names the
// attribute that it is about by its place in the request (NLMSGERR_ATTR_OFFS) or, if it is missing,
// by its number.
#include "netlink/request.hh"

#include <cerrno>

#include <psp/netlink/uapi.h>

namespace psp::netlink {
namespace {

// nested finds an attribute in a nest that has passed its policy.
const nlattr* nested(const nlattr* nest, std::uint16_t type) {
  const nlattr* found = nullptr;
  for_each_attribute(get_octets(nest), [&](const nlattr* attribute) {
    if (mnl_attr_get_type(attribute) == type) found = attribute;
  });
  return found;
}

// attribute_of is the number of a field. Which one depends on the operation, but dev.id and
// stats.dev-id share theirs.
std::uint16_t attribute_of(device::Field field) {
  using device::Field;
  switch (field) {
    case Field::kNone:
      return 0;
    case Field::kId:
      return PSPNL_DEV_ID;
    case Field::kIfindex:
      return PSPNL_DEV_IFINDEX;
    case Field::kNsid:
      return PSPNL_DEV_NSID;
    case Field::kVersionsEna:
      return PSPNL_DEV_PSP_VERSIONS_ENA;
    case Field::kDevId:
      return PSPNL_ASSOC_DEV_ID;
    case Field::kVersion:
      return PSPNL_ASSOC_VERSION;
    case Field::kSockFd:
      return PSPNL_ASSOC_SOCK_FD;
    case Field::kTxKey:
      return PSPNL_ASSOC_TX_KEY;
    case Field::kKey:
      return PSPNL_KEYS_KEY;
    case Field::kSpi:
      return PSPNL_KEYS_SPI;
  }
  return 0;
}

}  // namespace

bool Request::require(std::uint16_t type) {
  if (find(type) != nullptr) return true;
  ack = {.missing_type = type};
  return false;
}

MessageHead Request::head() const {
  return {.type = family.id,
          .seq = header->nlmsg_seq,
          .pid = header->nlmsg_pid,
          .cmd = cmd(),
          .version = family.version};
}

int Request::reply() {
  Writer writer;
  head().begin(writer);
  return send(writer);
}

int Request::send(Writer& writer) {
  if (!writer.end()) return -EMSGSIZE;
  out.push_back(writer.take());
  return 0;
}

int Request::refuse(const device::Error& error) {
  const std::uint16_t type = attribute_of(error.field);
  const bool in_key = error.field == device::Field::kKey || error.field == device::Field::kSpi;
  const nlattr* nest = in_key ? find(PSPNL_ASSOC_TX_KEY) : nullptr;
  ack = {.text = error.text != nullptr ? error.text : ""};
  if (error.missing) {
    ack.missing_type = type;
    ack.missing_nest = nest;
  } else if (in_key) {
    ack.bad = nest != nullptr ? nested(nest, type) : nullptr;
  } else if (type != 0) {
    ack.bad = find(type);
  }
  return -error.sys_errno;
}

}  // namespace psp::netlink
