// SPDX-License-Identifier: Apache-2.0
//
// The two kinds of captures. Each opens what it needs in an order in which a refusal leaves no file
// behind, and runs until its count or time is over, a signal comes or the file takes no more.
//
// A summary comes of a capture that began, even if it ended badly: `outcome` then has the failure,
// and the numbers are told all the same.
#pragma once

#include <optional>

#include "capture_file.hh"
#include "command.hh"

namespace psp::ctl {

// CaptureSummary is what there is to tell at the end.
struct CaptureSummary {
  std::uint64_t packets = 0, octets = 0, dropped = 0;
  std::optional<std::uint64_t> keys = {}, without_key = {};
  Outcome<void> outcome = {};
};

// capture_wire takes packets off the netdev, capture_kept those that pspd has kept.
Outcome<CaptureSummary> capture_wire(Context& context);
Outcome<CaptureSummary> capture_kept(Context& context);

}  // namespace psp::ctl
