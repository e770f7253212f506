// SPDX-License-Identifier: Apache-2.0
//
// Inside the layer: parse_header that writes where the caller wants the result. Copying a structure
// whose fields were just written costs more than reading the header (the copy is wider than the
// stores and has to wait for them), so parse_packet has its result filled in place.
#pragma once

#include <optional>
#include <span>

#include "wire/header.hh"

namespace psp::wire {

// read_header is parse_header into `header`. Returns why not, or nothing if all is well.
std::optional<Drop> read_header(std::span<const std::uint8_t> datagram, PspHeader& header);

}  // namespace psp::wire
