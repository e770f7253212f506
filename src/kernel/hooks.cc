// SPDX-License-Identifier: Apache-2.0
//
// tcx by plain bpf(2) calls of libbpf, whose own tcx needs a newer one; clsact by its tc calls.
// Programs, not links, stand at tcx: they stay when pspd goes, and block what they must. A program
// is replaced without a gap: the new one comes in front, then the old one goes. Ours are known by
// the name of the program; a handle or a priority is anybody's. What is not ours is neither moved
// nor removed, and a clsact goes only when no filter of anybody is in it.
#include "hooks.hh"

#include <algorithm>
#include <array>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <iterator>

#include "base/unique_fd.hh"

#include "netdev.hh"

namespace psp::kernel {
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

using Ids = std::vector<std::uint32_t>;

std::unexpected<std::string> unknown(const char* what, int error) {
  return std::unexpected(fmt::format("the kernel does not tell {}: {}", what,
                                     std::strerror(error < 0 ? -error : error)));
}

// tcx_programs are the programs at tcx in the order in which they run; nothing without tcx.
std::expected<std::optional<Ids>, std::string> tcx_programs(std::uint32_t ifindex, Side side) {
  Ids ids(kMostPrograms);
  std::uint32_t count = kMostPrograms, flags = 0;
  if (bpf_prog_query(static_cast<int>(ifindex), tcx(side), 0, &flags, ids.data(), &count) != 0) {
    if (errno == EINVAL) return std::nullopt;  // no such kind of attachment
    return unknown("which programs stand at tcx", errno);
  }
  ids.resize(std::min<std::size_t>(count, kMostPrograms));
  return ids;
}

// filter_program is the id of the program of our filter, 0 if there is none.
std::expected<std::uint32_t, std::string> filter_program(std::uint32_t ifindex, Side side) {
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(ifindex), .attach_point = point(side));
  LIBBPF_OPTS(bpf_tc_opts, opts, .handle = kFilterHandle, .priority = kFilterPriority);
  const int error = bpf_tc_query(&hook, &opts);
  if (error == 0) return opts.prog_id;
  if (error == -ENOENT || error == -EINVAL) return 0u;  // EINVAL: there is no clsact
  return unknown("which tc filters there are", error);
}

int remove_filter(std::uint32_t ifindex, Side side) {
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(ifindex), .attach_point = point(side));
  LIBBPF_OPTS(bpf_tc_opts, opts, .handle = kFilterHandle, .priority = kFilterPriority);
  return bpf_tc_detach(&hook, &opts);
}

// filter_at is our filter's program, if it is of that name.
std::expected<Fds, std::string> filter_at(std::uint32_t ifindex, const HookProgram& ours) {
  const auto id = filter_program(ifindex, ours.side);
  if (!id) return std::unexpected(id.error());
  return *id == 0 ? Fds() : open_programs({{*id}}, ours.name);
}

std::expected<Fds, std::string> tcx_at(std::uint32_t ifindex, const HookProgram& ours) {
  const auto ids = tcx_programs(ifindex, ours.side);
  if (!ids) return std::unexpected(ids.error());
  return *ids ? open_programs(**ids, ours.name) : Fds();
}

std::unexpected<std::string> failed(const Door& door, const std::string& netdev, const char* where,
                                    int error) {
  return std::unexpected(fmt::format("{}: cannot attach {} {}: {}", netdev, door.name, where,
                                     std::strerror(error < 0 ? -error : error)));
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
  const auto first =
      is_first_filter(door.ifindex, door.side == Side::kIngress, kFilterPriority, kFilterHandle);
  if (!first) return std::unexpected(fmt::format("{}: {}", netdev, first.error()));
  if (*first) return {};
  // A new filter goes to the head of the line.
  if (const int error = remove_filter(door.ifindex, door.side); error != 0)
    return failed(door, netdev, "as the first tc filter", error);
  if (const int error = attach(); error != 0)
    return failed(door, netdev, "as the first tc filter", error);
  return {};
}

}  // namespace

std::expected<bool, std::string> has_tcx(std::uint32_t ifindex) {
  const auto programs = tcx_programs(ifindex, Side::kEgress);
  if (!programs) return std::unexpected(programs.error());
  return programs->has_value();
}

std::expected<bool, std::string> make_clsact(std::uint32_t ifindex, const std::string& netdev) {
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(ifindex),
              .attach_point = static_cast<bpf_tc_attach_point>(BPF_TC_INGRESS | BPF_TC_EGRESS));
  const int error = bpf_tc_hook_create(&hook);
  if (error == 0) return true;
  if (error != -EEXIST)
    return std::unexpected(
        fmt::format("{}: cannot make a clsact qdisc (needs CONFIG_NET_SCH_INGRESS): {}", netdev,
                    std::strerror(-error)));
  const auto there = has_clsact(ifindex);
  if (!there) return std::unexpected(fmt::format("{}: {}", netdev, there.error()));
  if (*there) return false;
  return std::unexpected(fmt::format(
      "{0}: an ingress qdisc is in the place of the clsact qdisc: remove it ('tc qdisc del dev {0} "
      "ingress') and let its owner use clsact, whose ingress side is the same",
      netdev));
}

// The kernel has no call that replaces a program and moves it to the front. The new one
// comes first, then the old ones go.
std::expected<void, std::string> put_at_tcx(const Door& door, const std::string& netdev) {
  const int ifindex = static_cast<int>(door.ifindex);
  const auto ids = tcx_programs(door.ifindex, door.side);
  if (!ids) return std::unexpected(fmt::format("{}: {}", netdev, ids.error()));
  if (!*ids) return {};
  const Ids& before = **ids;
  if (before.empty() || before.front() != door.id) {
    // Ours, but not the first any more: it has to go before it can come again.
    if (std::ranges::find(before, door.id) != before.end() &&
        bpf_prog_detach2(door.program, ifindex, tcx(door.side)) != 0)
      return failed(door, netdev, "at tcx again", errno);
    if (bpf_prog_attach(door.program, ifindex, tcx(door.side), kBefore) != 0)
      return failed(door, netdev, "at tcx", errno);
  }
  Ids others = before;
  std::erase(others, door.id);
  const auto earlier = open_programs(others, door.name);
  if (!earlier) return std::unexpected(fmt::format("{}: {}", netdev, earlier.error()));
  for (const UniqueFd& program : *earlier)
    if (bpf_prog_detach2(program.get(), ifindex, tcx(door.side)) != 0)
      return failed(door, netdev, "in the place of an earlier pspd's", errno);
  return {};
}

std::expected<void, std::string> put(const Door& door, const std::string& netdev) {
  if (auto done = put_at_tcx(door, netdev); !done) return done;
  return door.filter ? put_filter(door, netdev) : std::expected<void, std::string>{};
}

std::expected<bool, std::string> stands(const Door& door) {
  const auto at_tcx = tcx_programs(door.ifindex, door.side);
  if (!at_tcx) return std::unexpected(at_tcx.error());
  const auto& first = *at_tcx;
  if (first && (first->empty() || first->front() != door.id)) return false;
  if (!door.filter) return door.ingress ? has_ingress(door.ifindex) : first.has_value();
  const auto filter = filter_program(door.ifindex, door.side);
  if (!filter) return std::unexpected(filter.error());
  if (*filter != door.id) return false;
  return is_first_filter(door.ifindex, door.side == Side::kIngress, kFilterPriority, kFilterHandle);
}

std::span<const HookProgram> hook_programs() {
  static const std::array<HookProgram, 2> programs = {
      {{Side::kEgress, "psp_egress"}, {Side::kIngress, "psp_ingress"}}};
  return programs;
}

std::expected<Fds, std::string> programs_at(std::uint32_t ifindex, const HookProgram& ours) {
  auto programs = tcx_at(ifindex, ours);
  if (!programs) return programs;
  auto filter = filter_at(ifindex, ours);
  if (!filter) return filter;
  std::ranges::move(*filter, std::back_inserter(*programs));
  return programs;
}

namespace {

// remove_clsact removes the qdisc if no filter of anybody is left in it.
std::expected<void, std::string> remove_clsact(std::uint32_t ifindex) {
  const auto there = has_clsact(ifindex);
  if (!there) return std::unexpected(there.error());
  if (!*there) return {};
  const auto used = has_filters(ifindex);
  if (!used) return std::unexpected(used.error());
  if (*used) return {};
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(ifindex),
              .attach_point = static_cast<bpf_tc_attach_point>(BPF_TC_INGRESS | BPF_TC_EGRESS));
  if (const int error = bpf_tc_hook_destroy(&hook); error != 0 && error != -ENOENT)
    return std::unexpected(
        fmt::format("the clsact qdisc cannot be removed: {}", std::strerror(-error)));
  return {};
}

std::expected<void, std::string> take_filter_off(std::uint32_t ifindex, const HookProgram& ours) {
  const auto filter = filter_at(ifindex, ours);
  if (!filter) return std::unexpected(filter.error());
  if (filter->empty()) return {};
  // Root of a container may be quicker: what he has taken off has gone as well.
  if (const int error = remove_filter(ifindex, ours.side); error != 0 && error != -ENOENT)
    return std::unexpected(
        fmt::format("the tc filter {} cannot be removed: {}", ours.name, std::strerror(-error)));
  return {};
}

std::expected<void, std::string> take_tcx_off(std::uint32_t ifindex, const HookProgram& ours) {
  const auto programs = tcx_at(ifindex, ours);
  if (!programs) return std::unexpected(programs.error());
  for (const UniqueFd& program : *programs)
    if (bpf_prog_detach2(program.get(), static_cast<int>(ifindex), tcx(ours.side)) != 0)
      return std::unexpected(
          fmt::format("{} cannot be taken off tcx: {}", ours.name, std::strerror(errno)));
  return {};
}

}  // namespace

std::expected<void, std::string> take_off(std::uint32_t ifindex,
                                          std::span<const HookProgram> programs, bool clsact) {
  for (const HookProgram& ours : programs)
    if (auto done = take_filter_off(ifindex, ours); !done) return done;
  if (clsact)
    if (auto done = remove_clsact(ifindex); !done) return done;
  for (const HookProgram& ours : programs)
    if (auto done = take_tcx_off(ifindex, ours); !done) return done;
  return {};
}

}  // namespace psp::kernel
