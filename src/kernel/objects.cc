// SPDX-License-Identifier: Apache-2.0
//
// By id, since another process's programs and maps have no descriptor here. One that goes while it
// is looked for is not there; every other failure is an error.
//
// Threading: see objects.hh.
#include "objects.hh"

#include <algorithm>
#include <array>
#include <bpf/bpf.h>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>

namespace psp::kernel {
namespace {

constexpr std::size_t kMostMaps = 64;  // of a program

std::unexpected<std::string> failed(const char* what) {
  return std::unexpected(
      fmt::format("the kernel does not tell about {}: {}", what, std::strerror(errno)));
}

}  // namespace

std::expected<bpf_prog_info, std::string> program_info(int program) {
  bpf_prog_info info{};
  std::uint32_t length = sizeof info;
  if (bpf_obj_get_info_by_fd(program, &info, &length) != 0) return failed("a BPF program");
  return info;
}

std::expected<bpf_map_info, std::string> map_info(int map) {
  bpf_map_info info{};
  std::uint32_t length = sizeof info;
  if (bpf_obj_get_info_by_fd(map, &info, &length) != 0) return failed("a BPF map");
  return info;
}

std::expected<Fds, std::string> open_programs(std::span<const std::uint32_t> ids,
                                              const std::string& name) {
  Fds programs;
  for (const std::uint32_t id : ids) {
    UniqueFd program(bpf_prog_get_fd_by_id(id));
    if (!program && errno == ENOENT) continue;
    if (!program) return failed("a BPF program");
    const auto info = program_info(program.get());
    if (!info) return std::unexpected(info.error());
    if (info->name == name) programs.push_back(std::move(program));
  }
  return programs;
}

std::expected<std::vector<std::uint32_t>, std::string> map_ids_of(int program) {
  bpf_prog_info info{};
  std::array<std::uint32_t, kMostMaps> ids{};
  std::uint32_t length = sizeof info;
  info.nr_map_ids = ids.size();
  info.map_ids = reinterpret_cast<std::uintptr_t>(ids.data());
  if (bpf_obj_get_info_by_fd(program, &info, &length) != 0)
    return failed("the maps of a BPF program");
  const std::size_t count = std::min<std::size_t>(info.nr_map_ids, ids.size());
  return std::vector<std::uint32_t>(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count));
}

std::expected<Fds, std::string> open_maps(int program) {
  const auto ids = map_ids_of(program);
  if (!ids) return std::unexpected(ids.error());
  Fds maps;
  for (const std::uint32_t id : *ids) {
    UniqueFd map(bpf_map_get_fd_by_id(id));
    if (!map && errno == ENOENT) continue;
    if (!map) return failed("a BPF map");
    maps.push_back(std::move(map));
  }
  return maps;
}

}  // namespace psp::kernel
