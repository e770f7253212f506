// SPDX-License-Identifier: Apache-2.0
//
// pspctl stats: the counters of the PSP specification, and why packets were dropped.
//
// The counters are the family's, by its names, of the kernel's devices as well as pspd's. The
// reasons are pspd's own, and exact where a counter only says "bad". The list of all reasons is in
// pspctl(8), and a test keeps it whole (pspctl_test.cc).
#include <algorithm>
#include <fmt/format.h>

#include "command.hh"
#include "devices.hh"

namespace psp::ctl {

namespace {

constexpr std::string_view kHelp = R"(Usage: pspctl stats show [IFNAME | id N]

show   the counters of each device; with -s or -d also how many packets were dropped for
       which reason, as far as pspd tells (pspctl(8) lists the reasons)

       key-rotations   device keys made since start
       stale-events    connections that lost their device key by rotation
       rx-packets      authenticated              tx-packets   sealed
       rx-auth-fail    ICV does not match         tx-error     could not be sealed or sent
       rx-error        malformed
       rx-bad          wrong version or SPI
       Bytes count what stands behind the IV, up to the ICV.
)";

Outcome<void> show(Context& context) {
  auto shown = devices_to_show(context, "stats show");
  if (!shown) return std::unexpected(shown.error());
  Emitter& out = context.out;
  for (const DeviceInfo& device : shown->devices) {
    const auto stats = shown->client.stats(device.id);
    if (!stats) return refused(fmt::format("stats show id {}", device.id), stats.error());
    const auto element = out.element();
    out.print("dev-id", "{}: ", device.id);
    out.print("ifname", "{}", device_name(device), Colour::kName);
    out.text(":");
    print_provider(out, shown->client, device.provider);
    out.text("\n");
    print_statistics(out, *stats, daemon_device(shown->daemon, device.id));
  }
  out.finish();
  return {};
}

}  // namespace

Noun stats_noun() { return {"stats", kHelp, true, {{"show", show, "list"}}}; }

}  // namespace psp::ctl
