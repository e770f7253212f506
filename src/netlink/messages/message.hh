// SPDX-License-Identifier: Apache-2.0
//
// A message is a struct and a list of its fields; writing it and reading it are both made from that
// list (fields.hh), so that server and client cannot disagree. The messages, with the operations
// and policies of their families, are in psp.hh, softpsp.hh and nlctrl.hh.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace psp::netlink {

// Datagram is one or more netlink messages as they travel.
using Datagram = std::vector<std::uint8_t>;

class Writer;

// put writes the attributes of a message, in the order of its fields.
template <typename Message>
void put(Writer& writer, const Message& message);

// read is what the attributes of a message say; of one that stands twice the last counts. What is
// absent stays as the struct has it. The sender may be newer: unknown attributes are skipped, and
// a wrong length reads as zero.
template <typename Message>
Message read(std::span<const std::uint8_t> attributes);

}  // namespace psp::netlink
