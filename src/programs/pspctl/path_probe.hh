// SPDX-License-Identifier: Apache-2.0
//
// The way to another host, tried with probes that travel as PSP packets do (docs/probe.md): below
// netfilter, to UDP port 1000 in both directions, small and of full size. The peer's pspd answers
// them; what else comes back says why it does not.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <expected>
#include <optional>
#include <vector>

#include "wire/probe.hh"

namespace psp::ctl {

using wire::ProbeAddress;

// Way is how packets to a peer leave this host.
struct Way {
  unsigned family = 4;
  ProbeAddress source{}, peer{};
  std::uint32_t ifindex = 0;
  std::array<std::uint8_t, 6> next_hop{};
  std::uint32_t mtu = 0;              // as far as the kernel knows, of the whole way
  std::vector<std::uint32_t> back{};  // ifindexes of netdevs by which PSP packets may come back
  std::chrono::steady_clock::time_point until{};  // no longer than this
};

// Refusal is an ICMP error that came for a probe.
struct Refusal {
  enum class What { kPort, kFirewall, kUnreachable, kTooBig };
  What what = What::kPort;
  ProbeAddress from{};
  std::uint32_t mtu = 0;  // kTooBig
};

// Tries is what was sent of a kind, and how much of it was answered.
struct Tries {
  int sent = 0, answered = 0;
};

// Heard is what came back. Sizes are of IP packets; 0: none passed.
struct Heard {
  std::optional<wire::Probe> answer;  // to a probe from any port, as PSP has them
  std::optional<wire::Probe> reply;   // to one from port 1000, as firewalls let replies pass
  bool echo = false;                  // ICMP
  std::optional<Refusal> refusal;     // of a small probe
  std::uint32_t stray = 0;            // ifindex of another netdev, by which answers came
  std::uint32_t path_mtu = 0;         // the way there, by what routers say
  std::uint32_t there = 0, back = 0;  // the largest that passed
  Tries probes;                       // of those that pass at all: what is missing was lost
  Tries echoes;
  int tries_of_a_size = 0;  // so often was the largest tried, if it did not pass
};

// probe_path asks, again and again what is not answered, and never beyond Way::until. Errors: an
// errno; EPERM without CAP_NET_RAW.
std::expected<Heard, int> probe_path(const Way& way);

}  // namespace psp::ctl
