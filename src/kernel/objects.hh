// SPDX-License-Identifier: Apache-2.0
//
// Objects: BPF programs and maps in the kernel, of whatever process, and what it says of them. That
// something cannot be told is an error, never "there is none": who took the one for the other would
// let go of what a dead pspd blocks.
//
// Threading: any thread.
#pragma once

#include <cstdint>
#include <expected>
#include <linux/bpf.h>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.hh"

namespace psp::kernel {

using Fds = std::vector<UniqueFd>;

// Errors: a sentence.
[[nodiscard]] std::expected<bpf_prog_info, std::string> program_info(int program);
[[nodiscard]] std::expected<bpf_map_info, std::string> map_info(int map);

// open_programs opens those of that name; what has gone meanwhile is left out. Errors: a sentence.
[[nodiscard]] std::expected<Fds, std::string> open_programs(std::span<const std::uint32_t> ids,
                                                            const std::string& name);

// map_ids_of are the ids of the maps that a program uses; open_maps opens them. Errors: a sentence.
[[nodiscard]] std::expected<std::vector<std::uint32_t>, std::string> map_ids_of(int program);
[[nodiscard]] std::expected<Fds, std::string> open_maps(int program);

}  // namespace psp::kernel
