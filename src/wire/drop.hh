// SPDX-License-Identifier: Apache-2.0
//
// Drop reasons as a C++ type. A packet outcome is never an Error and never a log line: it is always
// one counter, so that a flood of bad packets costs no more than counting them. Names, texts and
// counters are made of the one list in drop.h, so no reason can lack one. Engines and the packet
// path count by it, psp-pcap and pspctl write it for people; the BPF programs have the same numbers
// by drop.h.
#pragma once

#include <cstdint>
#include <string_view>

#include "wire/drop.h"

namespace psp {

enum class Drop : std::uint8_t {
#define PSP_DROP_ENUM_(name, number, counter, text) name = number,
  PSP_DROP_REASONS(PSP_DROP_ENUM_)
#undef PSP_DROP_ENUM_
};

// name is the reason's name as written in drop.h, for example "AUTH_FAIL".
constexpr std::string_view name(Drop reason) {
  switch (reason) {
#define PSP_DROP_CASE_(name, number, counter, text) \
  case Drop::name:                                  \
    return #name;
    PSP_DROP_REASONS(PSP_DROP_CASE_)
#undef PSP_DROP_CASE_
  }
  return "UNKNOWN";
}

// text is the reason in a few words for people.
constexpr std::string_view text(Drop reason) {
  switch (reason) {
#define PSP_DROP_CASE_(name, number, counter, text) \
  case Drop::name:                                  \
    return text;
    PSP_DROP_REASONS(PSP_DROP_CASE_)
#undef PSP_DROP_CASE_
  }
  return "unknown reason";
}

// counter_name is the counter of the PSP specification (docs/protocol.md, section 8) that the
// reason is counted under, as psp.yaml writes it; empty if none.
constexpr std::string_view counter_name(Drop reason) {
  enum class Counter { RX_ERROR, RX_BAD, RX_AUTH_FAIL, TX_ERROR, NONE };
  constexpr std::string_view names[] = {"rx-error", "rx-bad", "rx-auth-fail", "tx-error", ""};
  switch (reason) {
#define PSP_DROP_CASE_(name, number, counter, text) \
  case Drop::name:                                  \
    return names[static_cast<int>(Counter::counter)];
    PSP_DROP_REASONS(PSP_DROP_CASE_)
#undef PSP_DROP_CASE_
  }
  return "";
}

}  // namespace psp
