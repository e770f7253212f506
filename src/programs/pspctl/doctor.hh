// SPDX-License-Identifier: Apache-2.0
//
// What pspctl doctor looks at: each check ends in verdicts, none of them changes the host.
//
// A check (check_...) looks at the host; what it found is judged by a function of its own
// (judge_...), which tests give facts that no host has at hand. Each WARN and FAIL says what to do:
// who runs doctor wants to go on, not to read. Silence is never taken for ok.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "netlink/client.hh"

#include "devices.hh"
#include "path_probe.hh"

namespace psp::ctl {

struct Verdict {
  enum class Level { kOk, kSkipped, kWarning, kFail };

  std::string check;  // what was looked at: "kernel", "eth0", ...
  Level level = Level::kOk;
  std::string text;    // what was found
  std::string advice;  // what to do about it; empty if nothing
};

using Verdicts = std::vector<Verdict>;

Verdict ok(std::string_view check, std::string text);
Verdict skipped(std::string_view check, std::string text);
Verdict warn(std::string_view check, std::string text, std::string advice);
Verdict fail(std::string_view check, std::string text, std::string advice);

// judge_kernel looks at a release as uname(2) gives it, for example "6.18.44-amd64".
Verdict judge_kernel(std::string_view release);

// check_host: kernel, TUN, tc and BPF, BTF, cgroup v2, SOCK_DESTROY, processor, crypto. What needs
// root and has none is kSkipped.
Verdicts check_host();

// check_provider: kernel family or pspd, and who answers; what a dead pspd left, if none does.
// Leaves the connection in `client`.
// `hangs`: somebody is there and does not answer.
Verdicts check_provider(const std::optional<std::string>& socket, std::optional<Client>& client,
                        bool& hangs);

// check_udp_port: does another program use UDP port 1000 here? Nothing if not.
Verdicts check_udp_port();

// check_leftovers looks for tc programs of a pspd that is no more. For when none answers.
Verdicts check_leftovers();

// check_devices: is there one, and judge_device of each (or of the selected one).
Verdicts check_devices(Client& client, const std::optional<DeviceSelector>& selector);

// DeviceFacts is what a device is judged by.
struct DeviceFacts {
  std::string ifname;
  VersionSet versions_ena;
  std::optional<bool> up;  // of the netdev; none: there is no such netdev here
  std::uint32_t mtu = 0;
  std::optional<std::uint64_t> spi_remaining;
  std::uint64_t repairs = 0;  // as pspd says
  std::string trouble = {};   // as pspd says; empty: none
};
Verdicts judge_device(const DeviceFacts& facts);

// PathFacts is what the way to a peer is judged by.
struct PathFacts {
  std::string netdev;
  Way way;
  std::string gateway;  // none: the peer is on the link
  std::string stray;    // the netdev Heard::stray
  VersionSet enabled;   // for receive here
  Heard heard;
};
Verdicts judge_path(const PathFacts& facts);

// check_peer tries the way to each family's address of `host` with probes that its pspd answers
// (docs/probe.md). A way that nothing came back by is never ok.
Verdicts check_peer(const std::string& host, const std::vector<DeviceInfo>& devices);

}  // namespace psp::ctl
