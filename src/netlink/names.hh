// SPDX-License-Identifier: Apache-2.0
//
// Attribute names as the kernel's specification (psp.yaml) spells them, to turn the numbers and
// offsets of an error into words.
#pragma once

#include <cstdint>
#include <string>

#include "codec.hh"

namespace psp::netlink {

// attribute_at is the path of the attribute at `offset` of a request of the psp family, for example
// ".tx-key.key"; empty if there is none.
std::string attribute_at(const nlmsghdr* request, std::uint32_t offset);

// missing_attribute is the path of a missing attribute; nest_offset 0: at the top.
std::string missing_attribute(const nlmsghdr* request, std::uint32_t type,
                              std::uint32_t nest_offset);

}  // namespace psp::netlink
