// SPDX-License-Identifier: Apache-2.0
//
// Hooks: where packet programs stand at a netdev. There are two doors on each side. tcx (Linux 6.6)
// runs first, and no tc command reaches it; then come the filters of a clsact qdisc. A program of
// ours stands first at both: what takes one away does not open the other, and a packet that finds
// one door gone meets the second. Before Linux 6.6 there is only the clsact.
//
// Threading: the control thread; ifindex is one of the calling thread's network namespace.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "objects.hh"

namespace psp::kernel {

enum class Side { kIngress, kEgress };

// Door is one side of one netdev, and the program that belongs there.
struct Door {
  std::uint32_t ifindex = 0;
  Side side = Side::kIngress;
  int program = -1;      // descriptor
  std::uint32_t id = 0;  // of the program
  std::string name;      // of the program: earlier ones of that name are replaced
  // Also as a tc filter, not at tcx only? If not, is that for an ingress qdisc in the clsact's
  // place?
  bool filter = true, ingress = false;
};

// has_tcx: does this kernel have tcx? Errors: a sentence.
[[nodiscard]] std::expected<bool, std::string> has_tcx(std::uint32_t ifindex);

// make_clsact makes the clsact qdisc of a netdev. True if it was not there before. Errors: a
// sentence, also if an ingress qdisc is in its place.
[[nodiscard]] std::expected<bool, std::string> make_clsact(std::uint32_t ifindex,
                                                           const std::string& netdev);

// put makes the program the first at its door; earlier ones of ours are replaced without a gap.
// put_at_tcx does so at tcx only, where there is one. Errors: a sentence.
[[nodiscard]] std::expected<void, std::string> put(const Door& door, const std::string& netdev);
[[nodiscard]] std::expected<void, std::string> put_at_tcx(const Door& door,
                                                          const std::string& netdev);

// stands: is the program the first at its door? No, too, once an ingress qdisc in the way of its
// filter has gone. Errors: a sentence.
[[nodiscard]] std::expected<bool, std::string> stands(const Door& door);

// HookProgram is a side of a netdev and the name of the program that pspds have there.
struct HookProgram {
  Side side = Side::kIngress;
  std::string name;
};

// hook_programs are those of a netdev with a PSP device.
std::span<const HookProgram> hook_programs();

// programs_at are the programs of ours, of any pspd, at one side of a netdev. Errors: a sentence.
[[nodiscard]] std::expected<Fds, std::string> programs_at(std::uint32_t ifindex,
                                                          const HookProgram& ours);

// take_off takes all programs of those names off, and then the clsact if that is asked for and no
// filter of anybody is left in it. Those at tcx go last: they know of the clsact (PSP_RESTORE_*).
// Those of others stay. Errors: a sentence.
[[nodiscard]] std::expected<void, std::string> take_off(std::uint32_t ifindex,
                                                        std::span<const HookProgram> programs,
                                                        bool clsact);

}  // namespace psp::kernel
