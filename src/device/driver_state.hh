// SPDX-License-Identifier: Apache-2.0
//
// What the control object of the software driver shares with its engines. Private to the device
// layer.
//
// Threading: each member says its own, in its header; the options do not change.
#pragma once

#include <atomic>
#include <cstddef>

#include "device/keys/key_ring.hh"
#include "device/sa/tx_table.hh"
#include "device/software_driver.hh"
#include "device/stats.hh"

namespace psp::device {

struct SoftwareDriver::State {
  explicit State(SoftwareDriverOptions given);
  State(SoftwareDriverOptions given, const SavedPart& saved);

  SoftwareDriverOptions options;
  std::atomic<std::size_t> engine_octets{0};  // Rx memory of all engines
  TxTable tx;
  StatsRegistry stats;
  PacketLog packets;
  KeyRing keys;
};

}  // namespace psp::device
