// SPDX-License-Identifier: Apache-2.0
//
// Sharing of maps, names, counters: what libbpf and the kernel are asked the same way for both
// objects.
//
// Threading: see loading.hh.
#include "loading.hh"

#include <cstring>
#include <fmt/format.h>
#include <numeric>
#include <vector>

#include "objects.hh"

namespace psp::kernel {

void quiet_libbpf() { libbpf_set_print(nullptr); }

std::unexpected<std::string> failed(const std::string& what, int error) {
  return std::unexpected(fmt::format("{}: {}", what, std::strerror(error < 0 ? -error : error)));
}

void read_drops(int map_fd, DropCounts& counts) {
  const int cpus = libbpf_num_possible_cpus();
  if (cpus <= 0) return;
  std::vector<std::uint64_t> values(static_cast<std::size_t>(cpus));
  for (std::uint32_t reason = 0; reason < counts.size(); reason++) {
    if (bpf_map_lookup_elem(map_fd, &reason, values.data()) != 0) continue;
    counts[reason] = std::accumulate(values.begin(), values.end(), std::uint64_t{0});
  }
}

int program_by_name(bpf_object* object, const std::string& name) {
  bpf_program* program = bpf_object__find_program_by_name(object, name.c_str());
  return program == nullptr ? -1 : bpf_program__fd(program);
}

std::expected<void, std::string> reuse(bpf_map* map, int fd) {
  if (const int error = bpf_map__reuse_fd(map, fd); error != 0)
    return failed(fmt::format("cannot share the map {}", bpf_map__name(map)), error);
  return {};
}

std::expected<void, std::string> reuse(std::initializer_list<std::pair<bpf_map*, int>> maps) {
  for (const auto& [map, fd] : maps)
    if (auto done = reuse(map, fd); !done) return done;
  return {};
}

std::expected<void, std::string> check_names(bpf_object* object) {
  const auto unlike = [](const char* name) {
    return std::unexpected(fmt::format("the kernel does not know {} by its name", name));
  };
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object) {
    const auto info = program_info(bpf_program__fd(program));
    if (!info) return std::unexpected(info.error());
    if (std::strcmp(info->name, bpf_program__name(program)) != 0)
      return unlike(bpf_program__name(program));
  }
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) {
    if (bpf_map__is_internal(map)) continue;
    const auto info = map_info(bpf_map__fd(map));
    if (!info) return std::unexpected(info.error());
    if (std::strcmp(info->name, bpf_map__name(map)) != 0) return unlike(bpf_map__name(map));
  }
  return {};
}

}  // namespace psp::kernel
