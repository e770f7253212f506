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
#include <string>
#include <vector>

namespace psp::datapath {

enum class Side { kIngress, kEgress };

// Door is one side of one netdev, and the program that belongs there.
struct Door {
  std::uint32_t ifindex = 0;
  Side side = Side::kIngress;
  int program = -1;      // descriptor
  std::uint32_t id = 0;  // of the program
  std::string name;      // of the program: earlier ones of that name are replaced
};

// has_tcx: does this kernel have tcx?
bool has_tcx(std::uint32_t ifindex);

// make_clsact makes the clsact qdisc of a netdev. True if it was not there before. Errors: a
// sentence, also if an ingress qdisc is in its place.
std::expected<bool, std::string> make_clsact(std::uint32_t ifindex, const std::string& netdev);

// put makes the program the first at its door; earlier ones of ours are replaced without a gap.
// Without `clsact` at tcx only. Errors: a sentence.
std::expected<void, std::string> put(const Door& door, const std::string& netdev, bool clsact);

// stands: is the program the first at its door?
bool stands(const Door& door, bool clsact);

// programs_at are the ids of programs of ours, of any pspd, at one side of a netdev.
std::vector<std::uint32_t> programs_at(std::uint32_t ifindex, Side side, const std::string& name);

// take_off takes all programs of that name off, and reports whether all went. Those of others stay.
bool take_off(std::uint32_t ifindex, Side side, const std::string& name);

// remove_clsact removes the qdisc if no filter of anybody is left in it.
void remove_clsact(std::uint32_t ifindex);

// program_name is the name of a program, empty if it cannot be told; program_id is its id, or 0.
std::string program_name(int program);
std::uint32_t program_id(int program);

}  // namespace psp::datapath
