// SPDX-License-Identifier: Apache-2.0
//
// Plan: what may happen in a run. A seed turns each kind of hostility, fault and deed on or off, so
// that rare ones meet in every pair; what a failure does not need is then taken out again.
//
// A plan is all that a run depends on: World takes it and nothing else, so seed, steps and
// `without` are how a failure is told to others. The names are those of psp-sim --without and of
// docs/simulation.md. A kind goes to the end of the list: in the middle it would change the plans
// of all seeds.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace psp::sim {

/* X(name, text) */
#define PSP_SIM_FEATURES(X)                                                  \
  X(loss, "the link loses packets")                                          \
  X(delay, "... and holds some up for long")                                 \
  X(reorder, "... and lets some pass others")                                \
  X(duplicate, "... and doubles some")                                       \
  X(corrupt, "... and turns bits over")                                      \
  X(truncate, "... and cuts some short")                                     \
  X(replay, "an enemy sends again what he has seen")                         \
  X(inject, "... and segments in clear with the right numbers")              \
  X(forge, "... and PSP packets that he has changed")                        \
  X(rotate, "device keys rotate")                                            \
  X(versions, "versions are disabled for a while")                           \
  X(netdev, "the netdev goes and comes back")                                \
  X(clsact, "the clsact of the netdev is taken away")                        \
  X(tcx, "the programs at tcx are taken away")                               \
  X(foreign, "somebody's program comes first in line")                       \
  X(tap_programs, "the programs at the TAP are taken away")                  \
  X(tap, "the TAP is deleted, and pspd gives up")                            \
  X(crash, "pspd is killed and starts again")                                \
  X(stop, "pspd stops in order and starts again")                            \
  X(freeze, "pspd does not run for a while")                                 \
  X(clock, "the boot clock jumps ahead")                                     \
  X(route, "packets go by another netdev for a while")                       \
  X(full_maps, "there is no room for more secured sockets")                  \
  X(full_queue, "the queue of the TAP has room for few packets")             \
  X(late, "associations are made late, with data under way")                 \
  X(early, "... and before there is a peer, as Linux up to 7.3 has it")      \
  X(one_sided, "... and at one end only")                                    \
  X(wrong_key, "... with the key of another connection")                     \
  X(abort, "connections are aborted")                                        \
  X(disconnect, "sockets are disconnected and connected again")              \
  X(half_close, "one end says FIN and reads on")                             \
  X(same_ports, "ports are used again at once")                              \
  X(six, "some connections are of IPv6")                                     \
  X(old_kernel, "a kernel without tcx")                                      \
  X(sign, "what comes has the sign of opened packets, by another namespace") \
  X(call_errors, "calls of pspd to the kernel fail")                         \
  X(call_deaths, "pspd is killed between two of its calls")                  \
  X(memory, "pspd has no memory for a moment")                               \
  X(containers, "each host has a container at its device")                   \
  X(disassoc, "... which is taken from it")                                  \
  X(netns_gone, "... and ends, with its sockets and its namespace")          \
  X(container_root, "... and whose root is an enemy of all others")          \
  X(mtu, "the link has a smaller MTU for a while")                           \
  X(icmp, "an enemy sends ICMP errors")                                      \
  X(keyx, "some connections are secured by the key exchange, inside TLS")

enum class Feature : std::uint8_t {
#define PSP_SIM_FEATURE_(name, text) k_##name,
  PSP_SIM_FEATURES(PSP_SIM_FEATURE_)
#undef PSP_SIM_FEATURE_
      kCount,
};
inline constexpr std::size_t kFeatures = static_cast<std::size_t>(Feature::kCount);

std::string_view name_of(Feature feature);
std::string_view text_of(Feature feature);
std::optional<Feature> feature_of(std::string_view name);

struct Plan {
  std::uint64_t seed = 1;
  std::uint64_t steps = 20000;
  std::array<bool, kFeatures> without{};  // never, whatever the seed says
  std::array<bool, kFeatures> on{};       // what the seed and `without` leave

  bool has(Feature feature) const { return on[static_cast<std::size_t>(feature)]; }
};

// make_plan turns on what the seed says.
Plan make_plan(std::uint64_t seed, std::uint64_t steps, const std::array<bool, kFeatures>& without);

}  // namespace psp::sim
