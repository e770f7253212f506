// SPDX-License-Identifier: Apache-2.0
//
// Attribute names as the specifications of the families (spec/) spell them, to turn the numbers and
// offsets of an error into words. An error of the kernel says only where in the request something
// is wrong; a user is told ".tx-key.key". The names are ours: a kernel with a newer specification
// may mean more by a number, which then stands as it is. Used by connection.cc.
#pragma once

#include <cstdint>
#include <string>

#include "netlink/codec.hh"

namespace psp::netlink {

// attribute_at is the path of the attribute at `offset` of a request of the families psp or
// softpsp, for example ".tx-key.key"; empty if there is none.
std::string attribute_at(const nlmsghdr* request, std::uint32_t offset);

// missing_attribute is the path of a missing attribute; nest_offset 0: at the top.
std::string missing_attribute(const nlmsghdr* request, std::uint32_t type,
                              std::uint32_t nest_offset);

}  // namespace psp::netlink
