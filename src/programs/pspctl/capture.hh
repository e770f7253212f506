// SPDX-License-Identifier: Apache-2.0
//
// The two kinds of captures.
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
