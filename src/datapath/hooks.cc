// SPDX-License-Identifier: Apache-2.0
//
// tcx by plain bpf(2) calls of libbpf, whose own tcx needs a newer one; clsact by its tc calls.
// Programs, not links, stand at tcx: they stay when pspd goes, and block what they must.
#include "hooks.hh"

#include <algorithm>
#include <array>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>

#include <psp/base/unique_fd.hh>

#include "netdev.hh"

namespace psp::datapath {
namespace {

// Since Linux 6.6: enum bpf_attach_type, and a flag of BPF_PROG_ATTACH.
constexpr auto kTcxIngress = static_cast<bpf_attach_type>(46);
constexpr auto kTcxEgress = static_cast<bpf_attach_type>(47);
constexpr unsigned kBefore = 1u << 3;
constexpr std::size_t kMostPrograms = 64;  // at one door: BPF_MPROG_MAX

constexpr std::uint32_t kFilterPriority = 1;
constexpr std::uint32_t kFilterHandle = 0x505350;

bpf_attach_type tcx(Side side) { return side == Side::kIngress ? kTcxIngress : kTcxEgress; }

bpf_tc_attach_point point(Side side) {
  return side == Side::kIngress ? BPF_TC_INGRESS : BPF_TC_EGRESS;
}

// tcx_programs are the programs at tcx in the order in which they run; nothing without tcx.
std::optional<std::vector<std::uint32_t>> tcx_programs(std::uint32_t ifindex, Side side) {
  std::vector<std::uint32_t> ids(kMostPrograms);
  std::uint32_t count = kMostPrograms, flags = 0;
  if (bpf_prog_query(static_cast<int>(ifindex), tcx(side), 0, &flags, ids.data(), &count) != 0)
    return std::nullopt;
  ids.resize(std::min<std::size_t>(count, kMostPrograms));
  return ids;
}

// filter_program is the id of the program of our filter, 0 if there is none.
std::uint32_t filter_program(std::uint32_t ifindex, Side side) {
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(ifindex), .attach_point = point(side));
  LIBBPF_OPTS(bpf_tc_opts, opts, .handle = kFilterHandle, .priority = kFilterPriority);
  return bpf_tc_query(&hook, &opts) == 0 ? opts.prog_id : 0;
}

bool remove_filter(std::uint32_t ifindex, Side side) {
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(ifindex), .attach_point = point(side));
  LIBBPF_OPTS(bpf_tc_opts, opts, .handle = kFilterHandle, .priority = kFilterPriority);
  return bpf_tc_detach(&hook, &opts) == 0;
}

bool is_named(std::uint32_t id, const std::string& name) {
  const UniqueFd program(bpf_prog_get_fd_by_id(id));
  return program && program_name(program.get()) == name;
}

std::unexpected<std::string> failed(const Door& door, const std::string& netdev, const char* where,
                                    int error) {
  return std::unexpected(fmt::format("{}: cannot attach {} {}: {}", netdev, door.name, where,
                                     std::strerror(error < 0 ? -error : error)));
}

// put_first: the kernel has no call that replaces a program and moves it to the front. The new one
// comes first, then the old ones go.
std::expected<void, std::string> put_first(const Door& door, const std::string& netdev) {
  const int ifindex = static_cast<int>(door.ifindex);
  const auto before = tcx_programs(door.ifindex, door.side);
  if (!before || (!before->empty() && before->front() == door.id)) return {};
  // Ours, but not the first any more: it has to go before it can come again.
  if (std::ranges::find(*before, door.id) != before->end() &&
      bpf_prog_detach2(door.program, ifindex, tcx(door.side)) != 0)
    return failed(door, netdev, "at tcx again", errno);
  if (bpf_prog_attach(door.program, ifindex, tcx(door.side), kBefore) != 0)
    return failed(door, netdev, "at tcx", errno);
  for (const std::uint32_t id : *before) {
    if (id == door.id || !is_named(id, door.name)) continue;
    const UniqueFd earlier(bpf_prog_get_fd_by_id(id));
    if (earlier && bpf_prog_detach2(earlier.get(), ifindex, tcx(door.side)) != 0)
      return failed(door, netdev, "in the place of an earlier pspd's", errno);
  }
  return {};
}

std::expected<void, std::string> put_filter(const Door& door, const std::string& netdev) {
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(door.ifindex),
              .attach_point = point(door.side));
  const auto attach = [&] {
    LIBBPF_OPTS(bpf_tc_opts, opts, .prog_fd = door.program, .flags = BPF_TC_F_REPLACE,
                .handle = kFilterHandle, .priority = kFilterPriority);
    return bpf_tc_attach(&hook, &opts);
  };
  if (const int error = attach(); error != 0)
    return failed(door, netdev, "as a tc filter (needs CONFIG_NET_CLS_BPF)", error);
  if (is_first_filter(door.ifindex, door.side == Side::kIngress, kFilterPriority, kFilterHandle))
    return {};
  // A new filter goes to the head of the line.
  if (!remove_filter(door.ifindex, door.side))
    return failed(door, netdev, "as the first tc filter", errno);
  if (const int error = attach(); error != 0)
    return failed(door, netdev, "as the first tc filter", error);
  return {};
}

}  // namespace

std::string program_name(int program) {
  bpf_prog_info info{};
  std::uint32_t length = sizeof info;
  return bpf_obj_get_info_by_fd(program, &info, &length) == 0 ? info.name : "";
}

std::uint32_t program_id(int program) {
  bpf_prog_info info{};
  std::uint32_t length = sizeof info;
  return bpf_obj_get_info_by_fd(program, &info, &length) == 0 ? info.id : 0;
}

bool has_tcx(std::uint32_t ifindex) { return tcx_programs(ifindex, Side::kEgress).has_value(); }

std::expected<bool, std::string> make_clsact(std::uint32_t ifindex, const std::string& netdev) {
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(ifindex),
              .attach_point = static_cast<bpf_tc_attach_point>(BPF_TC_INGRESS | BPF_TC_EGRESS));
  const int error = bpf_tc_hook_create(&hook);
  if (error == 0) return true;
  if (error != -EEXIST)
    return std::unexpected(
        fmt::format("{}: cannot make a clsact qdisc (needs CONFIG_NET_SCH_INGRESS): {}", netdev,
                    std::strerror(-error)));
  if (has_clsact(ifindex)) return false;
  return std::unexpected(fmt::format(
      "{0}: an ingress qdisc is in the place of the clsact qdisc: remove it ('tc qdisc del dev {0} "
      "ingress') and let its owner use clsact, whose ingress side is the same",
      netdev));
}

std::expected<void, std::string> put(const Door& door, const std::string& netdev, bool clsact) {
  if (auto done = put_first(door, netdev); !done) return done;
  return clsact ? put_filter(door, netdev) : std::expected<void, std::string>{};
}

bool stands(const Door& door, bool clsact) {
  const auto first = tcx_programs(door.ifindex, door.side);
  if (first && (first->empty() || first->front() != door.id)) return false;
  if (!clsact) return first.has_value();
  return filter_program(door.ifindex, door.side) == door.id &&
         is_first_filter(door.ifindex, door.side == Side::kIngress, kFilterPriority, kFilterHandle);
}

std::vector<std::uint32_t> programs_at(std::uint32_t ifindex, Side side, const std::string& name) {
  auto ids = tcx_programs(ifindex, side).value_or(std::vector<std::uint32_t>{});
  if (const std::uint32_t filter = filter_program(ifindex, side); filter != 0)
    ids.push_back(filter);
  std::erase_if(ids, [&name](std::uint32_t id) { return !is_named(id, name); });
  return ids;
}

bool take_off(std::uint32_t ifindex, Side side, const std::string& name) {
  bool all = true;
  for (const std::uint32_t id :
       tcx_programs(ifindex, side).value_or(std::vector<std::uint32_t>{})) {
    const UniqueFd program(bpf_prog_get_fd_by_id(id));
    if (program && program_name(program.get()) == name)
      all &= bpf_prog_detach2(program.get(), static_cast<int>(ifindex), tcx(side)) == 0;
  }
  if (const std::uint32_t filter = filter_program(ifindex, side);
      filter != 0 && is_named(filter, name))
    all &= remove_filter(ifindex, side);
  return all;
}

void remove_clsact(std::uint32_t ifindex) {
  if (!has_clsact(ifindex) || has_filters(ifindex)) return;
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(ifindex),
              .attach_point = static_cast<bpf_tc_attach_point>(BPF_TC_INGRESS | BPF_TC_EGRESS));
  bpf_tc_hook_destroy(&hook);
}

}  // namespace psp::datapath
