// SPDX-License-Identifier: Apache-2.0
//
// What the loading of the two BPF objects has in common. Every result of libbpf is looked at,
// because it goes on without some things that we cannot be without: names, shared maps, the data
// that is set at run time. Private to this layer.
//
// Threading: the control thread only.
#pragma once

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cerrno>
#include <cstdint>
#include <expected>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>

#include "programs.hh"

namespace psp::kernel {

// failed is the error of what libbpf or the kernel did not do; `error` is an errno, or negative.
std::unexpected<std::string> failed(const std::string& what, int error);

// read_drops sums psp_drops over the processors. A count that cannot be read for want of memory
// stays what it was: a counter never falls.
void read_drops(int map_fd, DropCounts& counts);

int program_by_name(bpf_object* object, const std::string& name);

// reuse makes a program use a map that is there already. Errors: a sentence.
[[nodiscard]] std::expected<void, std::string> reuse(bpf_map* map, int fd);
[[nodiscard]] std::expected<void, std::string> reuse(
    std::initializer_list<std::pair<bpf_map*, int>> maps);

// check_names: have the programs and maps their names in the kernel? libbpf does without when its
// question whether the kernel knows names fails, and the next pspd finds them by nothing else.
[[nodiscard]] std::expected<void, std::string> check_names(bpf_object* object);

// fill_secrets sets the loader's values that both objects have.
template <typename Rodata>
void fill_secrets(Rodata* rodata, const Secrets& secrets) {
  rodata->psp_epoch = secrets.epoch;
  rodata->psp_token[0] = secrets.token[0];
  rodata->psp_token[1] = secrets.token[1];
  rodata->psp_view_optname = secrets.view_optname;
  rodata->psp_mark = secrets.mark;
  rodata->psp_verified = secrets.verified;
}

// put_element writes one element of a map. False: no room, or the kernel has no memory.
template <typename Key, typename Value>
[[nodiscard]] bool put_element(int map, const Key& key, const Value& value) {
  return bpf_map_update_elem(map, &key, &value, BPF_ANY) == 0;
}

// remove_element: is the element not there any more? One that was not there is as well.
template <typename Key>
[[nodiscard]] bool remove_element(int map, const Key& key) {
  return bpf_map_delete_elem(map, &key) == 0 || errno == ENOENT;
}

// get_element reads one; nothing: there is none. Errors: an errno, for where a kernel lacks memory
// there may be none for a sentence either (unread makes it).
template <typename Value, typename Key>
[[nodiscard]] std::expected<std::optional<Value>, int> get_element(int map,
                                                                   const Key& key) noexcept {
  Value value;
  if (bpf_map_lookup_elem(map, &key, &value) == 0) return value;
  if (errno == ENOENT) return std::nullopt;
  return std::unexpected(errno);
}
inline std::unexpected<std::string> unread(int error) {
  return failed("the kernel does not tell what is in a BPF map", error);
}

}  // namespace psp::kernel
